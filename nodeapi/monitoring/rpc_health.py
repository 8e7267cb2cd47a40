"""gRPC's health service, from the same report as /health/ready; and how a daphne asks it of runimpd."""

import asyncio
import logging

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from messaging.registry import Registry
from nodeapi.forward import Forwarder
from nodeapi.monitoring.health import Fault, Health, Report, decode_report

logger = logging.getLogger("nodeapi.monitoring.rpc_health")

FOLLOW_SECONDS = 1.0
ASK_SECONDS = 4.0
# Trailing metadata of Check: what is wrong, for a daphne beside.
FAULTS = "impervious-faults"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

ALL = ("node", "lnd", "database", "disk")
# What each service of the API needs. The others need all.
NEEDS = {
    # They tell what is stored and known, also while lnd is away; the stream from the first second.
    "node.Node": ("node", "database"),
    "websocket.Websocket": ("database",),
}
# Services of the API that are those of a service type: off with it. (The stream is there without the type websocket.)
TYPES = {
    "messaging.Messaging": "message",
    "federate.Federate": "federate",
    "vpn.VPN": "vpn",
    "signing.Signing": "sign",
    "socket.Socket": "socket",
}


class HealthService(health.aio.HealthServicer):
    """Check and Watch, `follow` keeps them true. `registry` is there once lnd has answered."""

    def __init__(self, reports: Health, names: list[str]):
        super().__init__()
        self._reports = reports
        self.registry: Registry | None = None
        self._names = names
        self._report = Report(())

    async def Check(self, request, context):
        context.set_trailing_metadata(((FAULTS, self._report.encode()),))
        return await super().Check(request, context)

    async def follow(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("health could not be looked at; trying again")
            await asyncio.sleep(FOLLOW_SECONDS)

    async def look(self) -> None:
        self._report = report = await self._reports.look()
        await self.set("", SERVING if report.ready else NOT_SERVING)
        for name in self._names:
            await self.set(name, SERVING if self._serves(name, report) else NOT_SERVING)

    def _serves(self, name: str, report: Report) -> bool:
        if name in TYPES:
            service = self.registry and self.registry.by_type(TYPES[name])
            if not service or service.state != "running":
                return False
        return not report.stops(NEEDS.get(name, ALL))


class RunimpdHealth:
    """What runimpd says of itself, for the health of a daphne beside it."""

    def __init__(self, forwarder: Forwarder):
        self._forwarder = forwarder

    async def ask(self) -> list[Fault]:
        stub = health_pb2_grpc.HealthStub(self._forwarder.channel)
        call = stub.Check(health_pb2.HealthCheckRequest(), timeout=ASK_SECONDS)
        try:
            await call
            trailing = dict(await call.trailing_metadata())
        except grpc.aio.AioRpcError:
            return [Fault("runimpd", "away")]
        return list(decode_report(trailing.get(FAULTS, "")).faults)
