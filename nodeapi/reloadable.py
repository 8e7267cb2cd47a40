"""What of a running process takes up a changed configuration, at SIGHUP."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from nodeapi.auth import Keys
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring.health import Health
from nodeapi.tls import PairFiles


@dataclass(frozen=True, kw_only=True)
class Reloadable:
    """`keys` are there once they have been read; `tls` where there is a certificate, `lnd` in the runimpd process."""

    health: Health
    keys: Keys | None = None
    tls: PairFiles | None = None
    lnd: LndStatus | None = None


# What SIGHUP does (impervious_site/reload.py).
Reload = Callable[[Reloadable], Coroutine[Any, Any, None]]
