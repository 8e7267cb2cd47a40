"""The gRPC server of runimpd: it listens from the start on, and gets the API when that is there."""

from collections.abc import Callable

from messaging.registry import Registry
from nodeapi import assembly, rpc
from nodeapi.doors import Doors
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Health
from nodeapi.monitoring.rpc_health import HealthService
from nodeapi.rpc_entry import RpcEntry
from nodeapi.tls import PairFiles, grpc_server_credentials

GRACE_SECONDS = 1.0


class RpcServer:
    """Make it in the event loop, `start` it, and await `follow_health` until cancelled."""

    def __init__(self, config, *, tls: PairFiles | None, health: Health, waiting_for: Callable[[], str]):
        self._address = str(config.server.grpc_addr)
        self._tls = tls
        self._rooms = rpc.make_rooms(
            max_message_bytes=assembly.max_body_bytes(config),
            max_connections=assembly.max_grpc_connections(config),
        )
        self._health = HealthService(health, rpc.service_names())
        self._entry = RpcEntry(rpc.open_handlers(self._rooms, self._health), waiting_for)
        self._server = rpc.make_server(self._entry, self._rooms)
        self._serves = False

    async def start(self) -> None:
        if self._tls:
            self._server.add_secure_port(self._address, grpc_server_credentials(self._tls))
        else:
            self._server.add_insecure_port(self._address)
        await self._server.start()
        self._serves = True
        await self._health.look()

    async def follow_health(self) -> None:
        await self._health.follow()

    def install(self, doors: Doors, scrape: Scrape) -> None:
        self._entry.install(rpc.api_handlers(doors, self._rooms, scrape=scrape))

    async def set_registry(self, registry: Registry) -> None:
        """The services are there: lnd has answered."""
        self._health.registry = registry
        await self._health.look()

    async def stop(self) -> None:
        """A second time does nothing."""
        if self._serves:
            self._serves = False
            await self._health.enter_graceful_shutdown()
            await self._server.stop(GRACE_SECONDS)
