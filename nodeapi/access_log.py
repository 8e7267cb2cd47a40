"""The lines of a daphne of its own about requests: in the node's log and its form, without what may be secret."""

import logging
from typing import Any

from daphne.access import AccessLogGenerator

logger = logging.getLogger(__name__)

WEBSOCKET = {
    "connecting": "websocket asks",
    "rejected": "websocket refused",
    "connected": "websocket opened",
    "disconnected": "websocket closed",
}


def install() -> None:
    """In place of Daphne's own lines, in whose addresses anything may stand, an API key too."""
    AccessLogGenerator.__call__ = _log


def _log(_: AccessLogGenerator, protocol: str, action: str, details: dict[str, Any]) -> None:
    fields = {"client": details.get("client"), "path": str(details.get("path", "")).partition("?")[0]}
    if protocol == "http" and action == "complete":
        told = {"method": details["method"], "status": details["status"], "size_bytes": details["size"]}
        logger.info("request", extra=fields | told)
    elif protocol == "websocket" and action in WEBSOCKET:
        logger.info(WEBSOCKET[action], extra=fields)
