"""The pages of the node. The API under /v1 does not pass here (asgi.py)."""

from django.contrib import admin
from django.urls import path
from django.views.generic import RedirectView, TemplateView

admin.site.site_header = "Impervious node"
admin.site.site_title = "Impervious node"
admin.site.index_title = "This node"
admin.site.site_url = None
# Lists of messages are wide.
admin.site.enable_nav_sidebar = False

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("docs/api", TemplateView.as_view(template_name="nodeapi/api.html")),
]
