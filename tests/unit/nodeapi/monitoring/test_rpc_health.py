"""gRPC's health service: what each service of the API needs, and what a daphne learns of runimpd."""

from types import SimpleNamespace

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from grpc_health.v1 import health_pb2

from messaging.registry import Registry
from nodeapi.monitoring.health import Fault, Report
from nodeapi.monitoring.rpc_health import FAULTS, NEEDS, TYPES, HealthService, RunimpdHealth
from nodeapi.rpc import service_names
from tests.support.engines import SERVICES

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
AWAY, FULL, NO_KEYSEND = Fault("lnd", "away"), Fault("disk", "full"), Fault("lnd", "no_keysend")
STOPPING, NO_DATABASE = Fault("node", "stopping"), Fault("database", "away")


class Context:
    """What of a gRPC context is used."""

    trailing: tuple = ()

    def set_trailing_metadata(self, metadata) -> None:
        self.trailing = metadata


def make_service(*faults: Fault) -> HealthService:
    async def look() -> Report:
        return Report(faults)

    return service_of(look)


def service_of(look, *, started: bool = True) -> HealthService:
    service = HealthService(SimpleNamespace(look=look), service_names())
    if started:
        service.registry = Registry(SERVICES)
    return service


async def serves(service: HealthService, name: str) -> bool:
    answer = await service.Check(health_pb2.HealthCheckRequest(service=name), Context())
    return {SERVING: True, NOT_SERVING: False}[answer.status]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ((), {"": True, "messaging.Messaging": True, "node.Node": True, "lightning.Lightning": True}),
        ((NO_KEYSEND,), {"": True, "messaging.Messaging": True}),
        # They tell what is stored and known, also while lnd is away.
        ((AWAY,), {"": False, "messaging.Messaging": False, "node.Node": True, "websocket.Websocket": True}),
        ((FULL,), {"": False, "messaging.Messaging": False, "node.Node": True}),
        ((NO_DATABASE,), {"": False, "node.Node": False, "websocket.Websocket": False}),
        ((STOPPING,), {"": False, "node.Node": False, "lightning.Lightning": False}),
    ],
)
async def test_services(faults, expected):
    service = make_service(*faults)
    await service.look()
    assert {name: await serves(service, name) for name in expected} == expected


async def test_stream_is_served_before_lnd_has_answered():
    async def look() -> Report:
        return Report((Fault("node", "starting"), AWAY))

    service = service_of(look, started=False)
    await service.look()
    names = ("websocket.Websocket", "node.Node", "messaging.Messaging", "")
    assert [await serves(service, name) for name in names] == [True, False, False, False]


async def test_service_that_is_off_serves_nothing():
    service = make_service()
    await service.look()
    # One is off, and of the others the node does not know.
    for name in ("signing.Signing", "vpn.VPN", "federate.Federate", "socket.Socket"):
        assert not await serves(service, name)


async def test_changes():
    faults = [AWAY]

    async def look() -> Report:
        return Report(tuple(faults))

    service = service_of(look)
    await service.look()
    assert not await serves(service, "")
    faults.clear()
    await service.look()
    assert await serves(service, "")


async def test_faults_are_told_to_daphnes():
    service, context = make_service(FULL, NO_KEYSEND), Context()
    await service.look()
    await service.Check(health_pb2.HealthCheckRequest(), context)
    assert context.trailing == ((FAULTS, "disk:full,lnd:no_keysend"),)


def test_tables_name_services_of_the_api():
    assert NEEDS.keys() <= set(service_names())
    assert TYPES.keys() <= set(service_names())


# what a daphne learns


class Call:
    """Of Check, which ends so."""

    def __init__(self, error: AioRpcError | None, trailing: Metadata):
        self._error, self._trailing = error, trailing

    def __await__(self):
        if self._error:
            raise self._error
        return iter(())

    async def trailing_metadata(self) -> Metadata:
        return self._trailing


class Channel:
    def __init__(self, call: Call):
        self._call = call

    def unary_unary(self, *arguments, **options):
        return lambda request, **given: self._call

    # The stub asks for all methods of the service.
    unary_stream = unary_unary


def error(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), "")


@pytest.mark.parametrize(
    ("failure", "trailing", "faults"),
    [
        (None, {FAULTS: ""}, []),
        (None, {FAULTS: "disk:full,lnd:no_keysend"}, [FULL, NO_KEYSEND]),
        (None, {}, []),
        (None, {"other": "x", FAULTS: "disk:full,moon:full"}, [FULL]),
        (grpc.StatusCode.UNAVAILABLE, {}, [Fault("runimpd", "away")]),
        (grpc.StatusCode.DEADLINE_EXCEEDED, {}, [Fault("runimpd", "away")]),
        (grpc.StatusCode.UNIMPLEMENTED, {}, [Fault("runimpd", "away")]),
    ],
)
async def test_runimpd(failure, trailing, faults):
    call = Call(error(failure) if failure else None, Metadata(*trailing.items()))
    asking = RunimpdHealth(SimpleNamespace(channel=Channel(call)))
    assert await asking.ask() == faults
