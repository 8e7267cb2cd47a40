"""The admin's first page shows what the configuration says of the services, beside the tables."""

from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.db import transaction
from django.http import HttpRequest
from django.template.response import TemplateResponse

from messaging.registry import ABOUT, Registry
from nodeapi import operators
from nodeapi.logins import LoginForm

STATES = {
    "running": "running",
    "off": "off: its calls are refused and its records dropped",
    "unavailable": "not in this version",
}


class NodeAdminSite(AdminSite):
    site_header = site_title = "Impervious node"
    index_title = "This node"
    site_url = None
    # Lists of messages are wide.
    enable_nav_sidebar = False
    index_template = "nodeapi/admin_index.html"
    login_form = LoginForm

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return super().index(request, {**(extra_context or {}), "services": services()})

    def note(self, request: HttpRequest, operation: str, **told: str) -> None:
        """For the audit log: what a page (messaging.admin.Noted) does, in its transaction."""
        operators.tell(operators.note(operation, operators.actor_in_admin(request), **told))

    @transaction.atomic
    def password_change(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> TemplateResponse:
        response = super().password_change(request, extra_context)
        if request.method == "POST" and response.status_code == 302:
            self.note(request, "accounts change", detail=f"{request.user.get_username()!r}: password")
        return response


def services() -> list[dict[str, Any]]:
    """Each row of service_list, for people."""
    registry = Registry(settings.IMPD.services if settings.IMPD else ())
    return [
        {
            "name": service.service_type,
            "about": ABOUT.get(service.service_type, ""),
            "number": service.record_number,
            "state": STATES[service.state],
        }
        for service in registry.services
    ]
