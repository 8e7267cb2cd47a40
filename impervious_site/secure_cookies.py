"""Cookies that were set over https are never sent over http, also where it is a trusted proxy that speaks https."""

from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin


class SecureCookies(MiddlewareMixin):
    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if request.is_secure():
            for cookie in response.cookies.values():
                cookie["secure"] = True
        return response
