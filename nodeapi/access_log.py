"""The lines of a daphne of its own about requests: in the node's log and its form, without what may be secret."""

import logging
from http import HTTPStatus
from typing import Any

from daphne.access import AccessLogGenerator

from nodeapi.monitoring.paths import PATHS

logger = logging.getLogger("nodeapi.access_log")

MAX_PATH_CHARACTERS = 200
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
    fields = {"client": details.get("client"), "path": _path_of(details.get("path", ""))}
    if protocol == "http" and action == "complete":
        told = {"method": details["method"], "status": details["status"], "size_bytes": details["size"]}
        is_check = fields["path"] in PATHS and details["status"] == HTTPStatus.OK
        logger.log(logging.DEBUG if is_check else logging.INFO, "request", extra=fields | told)
    elif protocol == "websocket" and action in WEBSOCKET:
        logger.info(WEBSOCKET[action], extra=fields)


def _path_of(target: str | bytes) -> str:
    """Without the query. Of websockets Daphne has it as bytes."""
    text = target.decode("latin-1") if isinstance(target, bytes) else target
    return text.partition("?")[0][:MAX_PATH_CHARACTERS]
