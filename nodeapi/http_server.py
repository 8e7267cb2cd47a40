"""Daphne as runimpd starts it: for one address, over TLS where there is a certificate."""

import signal
from collections.abc import Callable, Coroutine
from typing import Any

import daphne.server
from twisted.internet import defer
from twisted.protocols.tls import TLSMemoryBIOFactory

from nodeapi.tls import HttpTls, PairFiles

# Connections that nobody has accepted yet: the kernel answers them while the node is busy.
BACKLOG = 1024


def drain_at_shutdown(drain: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Before Daphne, in whatever process, ends what its clients wait for. A second signal waits for nobody."""
    end_applications = daphne.server.Server.kill_all_applications

    def drained(server: daphne.server.Server) -> defer.Deferred[Any]:
        loop = daphne.server.twisted_loop
        work = loop.create_task(drain())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, work.cancel)
        draining = defer.Deferred.fromFuture(work)
        draining.addBoth(lambda _: end_applications(server))
        return draining

    daphne.server.Server.kill_all_applications = drained


def when_listening(begin: Callable[[], None]) -> None:
    """Calls this once a Daphne of this process listens."""
    succeed = daphne.server.Server.listen_success

    def listening(server: daphne.server.Server, port: Any) -> None:
        succeed(server, port)
        # Its event loop may not run yet.
        daphne.server.twisted_loop.call_soon(begin)

    daphne.server.Server.listen_success = listening


class HttpServer(daphne.server.Server):
    """`address` has host and port. Its limits are those of http_limits.install."""

    def __init__(self, application, *, address, tls: PairFiles | None):
        host = address.host.replace(":", "\\:")
        super().__init__(
            application,
            endpoints=[f"tcp:port={address.port}:interface={host}:backlog={BACKLOG}"],
            signal_handlers=False,
            websocket_timeout=-1,
            server_name="impervious",
        )
        self._tls = tls

    @property
    def http_factory(self):
        return self._factory

    @http_factory.setter
    def http_factory(self, factory) -> None:
        """Daphne gives to its endpoints what it has put here."""
        if self._tls:
            tls = HttpTls(self._tls)
            self._factory = TLSMemoryBIOFactory(tls, False, factory)  # type: ignore[arg-type]  # by its decorator it is one
        else:
            self._factory = factory
