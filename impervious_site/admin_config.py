"""Which admin site Django is to use. Apart from the site, because apps are named before models can be imported."""

from django.contrib.admin.apps import SimpleAdminConfig


class NodeAdminConfig(SimpleAdminConfig):
    """The pages are found by urls.py, at the first visit of one: most nodes never show any."""

    default_site = "impervious_site.admin_site.NodeAdminSite"
