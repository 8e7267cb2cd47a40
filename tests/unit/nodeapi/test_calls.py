"""The operations of messages, from the dispatcher to the database, beside an lnd in memory."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import grpc
import pytest

from messaging.models import Direction, IdempotencyKey, InboundPolicy, Message, Peer, State
from nodeapi import lnd_status
from nodeapi.doors import Doors
from nodeapi.errors import ApiError
from nodeapi.models import AuditEntry
from nodeapi.stream import Hub
from protos import messaging_pb2, node_pb2, websocket_pb2
from tests.support.doors import ADDRESS, GET_INFO, SEND_MESSAGE, caller, make_doors, operation, visit
from tests.support.engines import make_engine, running
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.waiting import GUARD_SECONDS, until_in_loop

CODE = grpc.StatusCode
LIST, GET = "messaging.Messaging/ListMessages", "messaging.Messaging/GetMessage"
ESTIMATE = "messaging.Messaging/EstimateMessage"
OWNED_SAT = 5_000_000


@pytest.fixture(autouse=True)
def further_tables(tables) -> Iterator[None]:
    yield
    for table in (Peer, InboundPolicy):
        table.objects.all().delete()


@pytest.fixture
def lnds() -> list[FakeLnd]:
    """That of another node, and that of the engine."""
    return connected("other", "own")


@pytest.fixture
async def doors(database, lnds, monkeypatch) -> AsyncIterator[Doors]:
    """Of a node that runs; what it sends stays on its way until the payments are released."""
    # What a test says of the balance is not set right meanwhile.
    monkeypatch.setattr(lnd_status, "REFRESH_SECONDS", 10 * GUARD_SECONDS)
    hub = Hub(database, poll_seconds=600)
    await hub.start()
    engine = await make_engine(database, lnds[1])
    await engine.begin()
    lnds[0].hold_payments_to()
    callers = caller("app", "read", "send"), caller("poor", "send", budget_sat=5)
    async with running(engine):
        yield make_doors(database, *callers, engine=engine, hub=hub)


async def call(doors: Doors, rpc: str, request, who: str = "app", **metadata: str):
    return await doors.call(operation(rpc), lambda: request, visit(who, **metadata))


async def refused(doors: Doors, rpc: str, request, who: str = "app", **metadata: str) -> ApiError:
    with pytest.raises(ApiError) as error:
        await call(doors, rpc, request, who, **metadata)
    return error.value


def message_to(lnd: FakeLnd, msg: bytes = b"hello", **fields) -> messaging_pb2.SendMessageRequest:
    return messaging_pb2.SendMessageRequest(msg=msg, pubkey=lnd.pubkey, **fields)


async def audited(doors: Doors, *names: str) -> list[tuple]:
    await doors.audit.flush()
    return await doors.database.read(lambda: list(AuditEntry.objects.order_by("pk").values_list(*names)))


# sending


async def test_message_and_its_row_of_the_audit_log_are_stored_together(database, doors, lnds):
    reply_to = uuid4()
    request = message_to(lnds[0], amount=3, reply_to_id=str(reply_to), expires_in=60)
    message_id = UUID((await call(doors, SEND_MESSAGE, request)).id)
    # Before anything is written behind the call.
    (row,) = await database.read(lambda: list(AuditEntry.objects.values()))
    (message,) = await database.read(lambda: list(Message.objects.values()))
    assert (message["message_id"], message["reply_to"], bytes(message["body"])) == (
        message_id,
        reply_to,
        b"hello",
    )
    assert (message["amount_msat"], message["pubkey"]) == (3_000, lnds[0].pubkey)
    assert message["state"] in ("queued", "in_flight")
    assert message["cost_msat"] >= 3_000
    expected = {
        "caller": "app",
        "operation": SEND_MESSAGE,
        "peer": lnds[0].pubkey,
        "amount_msat": 3_000,
        "outcome": "accepted",
        "detail": "",
        "address": ADDRESS,
        "message_id": message_id,
        "spends": True,
    }
    assert expected.items() <= row.items()
    assert len(await audited(doors, "pk")) == 1


async def test_raw_bytes_for_the_stream_ask_for_their_service(doors, lnds):
    request = websocket_pb2.SendRequest(data=b"x", pubkey=lnds[0].pubkey)
    error = await refused(doors, "websocket.Websocket/Send", request)
    assert (error.code, error.message) == (
        CODE.FAILED_PRECONDITION,
        "the service websocket is off on this node",
    )


@pytest.mark.parametrize(
    ("fields", "code", "start"),
    [
        ({"msg": bytes(1_001)}, CODE.INVALID_ARGUMENT, "msg: 1001 bytes are more than message.max_bytes"),
        ({"amount": OWNED_SAT + 1}, CODE.FAILED_PRECONDITION, "amount: 5000001 sat is more than the "),
    ],
)
async def test_what_is_known_to_fail_is_not_stored(database, doors, lnds, fields, code, start):
    error = await refused(doors, SEND_MESSAGE, message_to(lnds[0], **fields))
    assert error.code is code
    assert error.message.startswith(start)
    assert not await database.read(Message.objects.exists)
    assert await audited(doors, "outcome", "spends") == [(error.status_name, False)]


async def test_message_to_this_node_itself(doors, lnds):
    error = await refused(doors, SEND_MESSAGE, message_to(lnds[1]))
    assert (error.code, error.message) == (CODE.INVALID_ARGUMENT, "pubkey: is this node's own key")


async def test_budget_of_the_key(database, doors, lnds):
    error = await refused(doors, SEND_MESSAGE, message_to(lnds[0], amount=6), "poor")
    assert error.code is CODE.RESOURCE_EXHAUSTED
    assert error.message.startswith("the budget of the API key 'poor': ")
    assert not await database.read(Message.objects.exists)
    assert await audited(doors, "caller", "outcome") == [("poor", "ResourceExhausted")]


# Idempotency-Key


async def test_same_key_and_request_give_the_same_answer(database, doors, lnds):
    request = message_to(lnds[0])
    first = await call(doors, SEND_MESSAGE, request, idempotency_key="k")
    assert await call(doors, SEND_MESSAGE, request, idempotency_key="k") == first
    other = await call(doors, SEND_MESSAGE, request, idempotency_key="another")
    assert other.id != first.id
    assert await database.read(Message.objects.count) == 2
    rows = await audited(doors, "outcome", "message_id", "spends")
    assert sorted(rows) == sorted(
        [
            ("accepted", UUID(first.id), True),
            ("repeated", UUID(first.id), False),
            ("accepted", UUID(other.id), True),
        ]
    )


async def test_calls_at_the_same_time_with_one_key_send_once(database, doors, lnds):
    calls = [call(doors, SEND_MESSAGE, message_to(lnds[0]), idempotency_key="k") for _ in range(5)]
    replies = await asyncio.gather(*calls)
    assert len({reply.id for reply in replies}) == 1
    assert await database.read(Message.objects.count) == 1
    outcomes = [outcome for (outcome,) in await audited(doors, "outcome")]
    assert sorted(outcomes) == ["accepted", *["repeated"] * 4]


async def test_same_key_for_another_request(database, doors, lnds):
    await call(doors, SEND_MESSAGE, message_to(lnds[0]), idempotency_key="secret key")
    error = await refused(doors, SEND_MESSAGE, message_to(lnds[0], b"other"), idempotency_key="secret key")
    assert (error.code, error.message) == (
        CODE.ALREADY_EXISTS,
        "Idempotency-Key: was given before, with another request",
    )
    assert await database.read(Message.objects.count) == 1


async def test_what_was_accepted_once_is_not_refused_later(database, doors, lnds):
    request = message_to(lnds[0], amount=3)
    first = await call(doors, SEND_MESSAGE, request, idempotency_key="k")
    doors.engine.lnd.spendable_sat = 0
    assert await call(doors, SEND_MESSAGE, request, idempotency_key="k") == first
    assert (await refused(doors, SEND_MESSAGE, request)).code is CODE.FAILED_PRECONDITION


async def test_refused_request_uses_up_no_key(database, doors, lnds):
    doors.engine.lnd.spendable_sat = 0
    await refused(doors, SEND_MESSAGE, message_to(lnds[0]), idempotency_key="k")
    assert not await database.read(IdempotencyKey.objects.exists)
    doors.engine.lnd.spendable_sat = OWNED_SAT
    await call(doors, SEND_MESSAGE, message_to(lnds[0]), idempotency_key="k")


async def test_keys_of_two_callers_are_two(database, doors, lnds):
    replies = [
        await call(doors, SEND_MESSAGE, message_to(lnds[0]), who, idempotency_key="k")
        for who in ("app", "poor")
    ]
    assert replies[0].id != replies[1].id


async def test_message_is_sent(database, doors, lnds):
    reply = await call(doors, SEND_MESSAGE, message_to(lnds[0], amount=3))
    lnds[0].release_payments_to()
    settled = Message.objects.filter(state=State.SETTLED)
    await until_in_loop(lambda: database.read(settled.exists))
    got = await call(doors, GET, messaging_pb2.GetMessageRequest(id=reply.id))
    assert (got.message.state, got.message.msg, got.message.direction) == ("settled", b"hello", "out")


# reading


async def test_message_that_is_not_there(doors):
    missing = str(uuid4())
    error = await refused(doors, GET, messaging_pb2.GetMessageRequest(id=missing))
    assert (error.code, error.message) == (CODE.NOT_FOUND, f"id: there is no message {missing}")


async def test_history(database, doors, lnds):
    def store() -> None:
        for number in range(4):
            Message.objects.create(
                message_id=UUID(int=number + 1),
                direction=Direction.OUT if number % 2 else Direction.IN,
                pubkey=lnds[0].pubkey,
                service="message",
                body=bytes([number]),
                amount_msat=1_000,
                state=State.SETTLED if number % 2 else State.RECEIVED,
                created_at=datetime(2026, 7, 8, tzinfo=UTC),
            )

    async def listed(**fields) -> list[int]:
        reply = await call(doors, LIST, messaging_pb2.ListMessagesRequest(**fields))
        return [UUID(message.id).int for message in reply.messages]

    await database.write(store)
    assert await listed() == [4, 3, 2, 1]
    assert await listed(limit=2) == [4, 3]
    assert await listed(before=str(UUID(int=3)), limit=1) == [2]
    assert await listed(direction="in") == [3, 1]
    assert await listed(state="settled") == [4, 2]
    assert await listed(service="sign") == await listed(pubkey=lnds[1].pubkey) == []
    error = await refused(doors, LIST, messaging_pb2.ListMessagesRequest(before=str(uuid4())))
    assert error.message == "before: names no message of this node"


async def test_node(doors, lnds):
    info = await call(doors, GET_INFO, node_pb2.GetInfoRequest())
    assert (info.pubkey, info.version, info.lnd_reachable, info.synced) == (
        lnds[1].pubkey,
        "1.2.3",
        True,
        True,
    )
    states = {service.service_type: (service.active, service.state) for service in info.services}
    assert states == {
        "message": (True, "running"),
        "sign": (False, "off"),
        "unheard_of": (True, "unavailable"),
    }


async def test_estimate(doors, lnds):
    request = messaging_pb2.EstimateMessageRequest(pubkey=lnds[0].pubkey, size=10, amount=2)
    estimate = await call(doors, ESTIMATE, request)
    assert estimate.parts == 1
    lnds[1].stop()
    error = await refused(doors, ESTIMATE, request)
    assert error.code is CODE.UNAVAILABLE
