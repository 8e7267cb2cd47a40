"""The admin's first page shows what the configuration says of the services, beside the tables."""

from django.conf import settings
from django.contrib.admin import AdminSite

from messaging.registry import Registry

ABOUT = {
    "federate": "nodes that hold each other as members, for a time",
    "vpn": "WireGuard tunnels, sold by the hour",
    "websocket": "raw bytes between the streams of two nodes",
    "message": "messages, long and short",
    "socket": "a UDP relay for two programs, offered to another node",
    "sign": "signatures by the node's key",
}
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

    def index(self, request, extra_context=None):
        return super().index(request, {**(extra_context or {}), "services": services()})


def services() -> list[dict]:
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
