"""What Daphne serves: /v1, /health and /metrics by the API, everything else by Django (the admin).

Within runimpd, the runtime installs the API. Under `daphne impervious_site.asgi:application` this process makes its own,
which reads the database and forwards all else to runimpd.
"""

import os
import signal
import sys
from functools import partial
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "impervious_site.settings")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from nodeapi import installation

if _problem := installation.stale_packages():
    sys.exit(_problem)

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

from impervious_site.config import PLACES

_django: Any = get_asgi_application()

from impervious_site.reload import Reload
from impervious_site.static_files import StaticFiles
from nodeapi import access_log, assembly, descriptors, http_limits, signals, systemd
from nodeapi.addresses import ClientsOfProxies, trust
from nodeapi.entry import api_entry
from nodeapi.http_drain import HttpDrain
from nodeapi.http_server import drain_at_shutdown, tell_when_listening
from nodeapi.monitoring.pages import EarlyMetrics
from nodeapi.monitoring.paths import PATHS
from nodeapi.runtime import DRAIN_SECONDS, install_api
from nodeapi.web import CrossOrigin, is_api_path, respond

ADMIN_PATH = "/admin/"
TEXT = (b"content-type", b"text/plain; charset=utf-8")

if settings.IMPD is None:
    sys.exit(f"no configuration file: set IMPD_CONFIG, or put one of {', '.join(PLACES)} here")


async def _when_begun(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The admin reads the database, which may be away, or not migrated yet."""
    if scope["path"].startswith(ADMIN_PATH) and not await api_entry.has_begun():
        await respond(send, 503, api_entry.waiting_for.encode(), named=[TEXT])
    else:
        await _django(scope, receive, send)


_pages = StaticFiles(cast("Any", _when_begun))
trust(settings.IMPD.server.trusted_proxies)
descriptors.raise_limit()
_guard = assembly.make_guard(settings.IMPD)
access_log.install()
http_limits.install(assembly.make_http_limits(settings.IMPD), _guard.origin_allowed)
api_entry.drain_http_with(HttpDrain(http_limits.installed_seats()))
if "IMPD_ENGINE_HERE" not in os.environ:
    # Until the API is made, at the first call, it must not end this process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _keys = assembly.make_early_keys(settings.IMPD)
    _scrape = assembly.make_early_scrape(
        settings.IMPD, keys=_keys, health=api_entry.health, version=settings.VERSION
    )
    tell_when_listening(systemd.begin_unit)
    api_entry.install_early(EarlyMetrics(_keys, _guard, _scrape))
    api_entry.make_with(
        partial(install_api, settings.IMPD, version=settings.VERSION, reload=Reload(settings.IMPD))
    )


async def _drain() -> None:
    # The runtime has done so at the signal.
    if "IMPD_ENGINE_HERE" not in os.environ:
        signals.begin_end()
        systemd.notify(systemd.STOPPING)
    await api_entry.drain(DRAIN_SECONDS)


drain_at_shutdown(_drain)


async def _http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    path = scope["path"]
    door = api_entry if is_api_path(path) or path in PATHS else _pages
    await door(scope, receive, send)


application = ClientsOfProxies(
    ProtocolTypeRouter({"http": CrossOrigin(_http, _guard), "websocket": api_entry})
)
