"""The pages of the node. The API under /v1 does not pass here (asgi.py)."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView, TemplateView

from nodeapi import docs_site
from nodeapi.favicon import favicon

admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("favicon.ico", favicon),
    path("docs", RedirectView.as_view(url="/docs/")),
    path("docs/", docs_site.page),
    path("docs/api", TemplateView.as_view(template_name="nodeapi/api.html")),
    path("docs/<path:name>", docs_site.page),
]
