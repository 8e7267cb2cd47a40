"""Daphne as runimpd starts it: for one address, over TLS where there is a certificate."""

import daphne.server
from twisted.protocols.tls import TLSMemoryBIOFactory

from nodeapi.tls import HttpTls, PairFiles

# Connections that nobody has accepted yet: the kernel answers them while the node is busy.
BACKLOG = 1024


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
