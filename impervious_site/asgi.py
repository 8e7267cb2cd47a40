"""What Daphne serves: /v1, /health and /metrics by the API, everything else by Django (the admin).

Within runimpd, the runtime installs the API. Under `daphne impervious_site.asgi:application` this process makes its own,
which reads the database and forwards all else to runimpd.
"""

import os
import signal
import sys
from functools import partial
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "impervious_site.settings")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from nodeapi import installation

if _problem := installation.stale_packages():
    sys.exit(_problem)

from channels.routing import ProtocolTypeRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

from impervious_site.config import PLACES

_django = get_asgi_application()

from impervious_site.reload import Reload
from impervious_site.static_files import StaticFiles
from nodeapi import access_log, assembly, descriptors, http_limits, systemd
from nodeapi.addresses import ClientsOfProxies, trust
from nodeapi.entry import api_entry
from nodeapi.http_drain import HttpDrain
from nodeapi.http_server import drain_at_shutdown, when_listening
from nodeapi.monitoring.paths import PATHS
from nodeapi.runtime import DRAIN_SECONDS, install_api
from nodeapi.web import CrossOrigin, is_api_path

if settings.IMPD is None:
    sys.exit(f"no configuration file: set IMPD_CONFIG, or put one of {', '.join(PLACES)} here")

_pages = StaticFiles(_django)
trust(settings.IMPD.server.trusted_proxies)
descriptors.raise_limit()
_guard = assembly.make_guard(settings.IMPD)
access_log.install()
http_limits.install(assembly.make_http_limits(settings.IMPD), _guard.origin_allowed)
api_entry.drain_http_with(HttpDrain(http_limits.installed_seats()))
if "IMPD_ENGINE_HERE" not in os.environ:
    # Until the API is made, at the first call, it must not end this process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # runimpd tells of itself.
    when_listening(systemd.begin_unit)
    api_entry.make_with(
        partial(install_api, settings.IMPD, version=settings.VERSION, reload=Reload(settings.IMPD))
    )
drain_at_shutdown(partial(api_entry.drain, DRAIN_SECONDS))


async def _http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    path = scope["path"]
    door = api_entry if is_api_path(path) or path in PATHS else _pages
    await door(scope, receive, send)


application = ClientsOfProxies(
    ProtocolTypeRouter({"http": CrossOrigin(_http, _guard), "websocket": api_entry})
)
