"""Which admin site Django is to use. Apart from the site, because apps are named before models can be imported."""

from django.contrib.admin.apps import AdminConfig


class NodeAdminConfig(AdminConfig):
    default_site = "impervious_site.admin_site.NodeAdminSite"
