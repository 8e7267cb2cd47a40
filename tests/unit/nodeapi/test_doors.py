"""The dispatcher: who may call, where a call is carried out, what is noted of its end, and what its errors say."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID, uuid4

import grpc
import pytest
from django.db import DataError, IntegrityError, OperationalError
from google.protobuf.message import Message

from lightning.client import Trouble
from messaging import metrics, notes
from messaging.budget import OverBudget
from messaging.idempotency import Claim, KeyReused
from nodeapi.calling import current_call
from nodeapi.doors import UNFINISHED, Doors, claim_of
from nodeapi.errors import ApiError, invalid
from nodeapi.lnd_status import LndStatus
from nodeapi.models import AuditEntry
from nodeapi.operations import Operation
from protos import messaging_pb2, node_pb2, socket_pb2
from tests.support.doors import (
    ADDRESS,
    ENGINE,
    GET_INFO,
    LIST_MESSAGES,
    PUBKEY,
    SEND_MESSAGE,
    START_SOCKET,
    caller,
    make_doors,
    operation,
    visit,
)
from tests.support.fake_lnd import connected

REQUEST = messaging_pb2.SendMessageRequest(msg=b"a secret body", pubkey=PUBKEY, amount=3)
CODE = grpc.StatusCode


async def refused(doors: Doors, operation: Operation, read: Callable[[], Message], visit) -> ApiError:
    with pytest.raises(ApiError) as error:
        await doors.call(operation, read, visit)
    return error.value


async def rows(doors: Doors, *names: str) -> list[tuple]:
    """Of the audit log, the oldest first."""
    await doors.audit.flush()
    return await doors.database.read(lambda: list(AuditEntry.objects.order_by("pk").values_list(*names)))


def told(caplog) -> list[dict]:
    """The audit log's lines."""
    return [vars(record) for record in caplog.records if record.name == "audit"]


def unread() -> Message:
    raise AssertionError("the request was read before the caller was known")


async def unreached(doors, **fields):
    raise AssertionError("the operation was carried out")


class Doing:
    """An operation's function that remembers what it was asked."""

    def __init__(self, reply: dict | None = None, error: BaseException | None = None):
        self._reply, self._error = reply or {}, error
        self.asked: list[dict] = []

    async def __call__(self, doors, **fields):
        self.asked.append(fields)
        if self._error:
            raise self._error
        return self._reply


async def store_note(doors: Doors, item_id: UUID, amount_msat: int = 3_000) -> None:
    """As the outbox does: the call's row is stored with the message."""
    row = current_call().note(item_id=item_id, peer=PUBKEY, amount_msat=amount_msat)
    await doors.database.write(lambda: notes.store([row]))


# who may call


@pytest.mark.parametrize(
    ("visit", "text"),
    [
        (visit(), "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        (visit("stranger"), "the API key is not known"),
        (visit("old"), "the API key 'old' expired at 2024-05-06 07:08:09 UTC"),
    ],
)
@pytest.mark.parametrize("rpc", [SEND_MESSAGE, GET_INFO, LIST_MESSAGES])
@pytest.mark.parametrize("engine", [ENGINE, None])
async def test_unknown_caller_reaches_nothing(database, caplog, visit, text, rpc, engine):
    caplog.set_level(logging.INFO)
    old = caller("old", "read", "send", expires_at=datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC))
    doors = make_doors(database, old, engine=engine)
    error = await refused(doors, operation(rpc, unreached), unread, visit)
    assert (error.code, error.message) == (CODE.UNAUTHENTICATED, text)
    (line,) = told(caplog)
    assert (line["msg"], line["operation"], line["outcome"]) == ("refused", rpc, "Unauthenticated")
    assert (line["client"], line["key"], line["detail"]) == (ADDRESS, "", text)
    assert await rows(doors, "pk") == []


async def test_scope_is_asked_for_before_the_request_is_read(database, caplog):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("reader", "read"), engine=ENGINE)
    error = await refused(doors, operation(SEND_MESSAGE, unreached), unread, visit("reader"))
    assert (error.code, error.message) == (
        CODE.PERMISSION_DENIED,
        "the API key 'reader' lacks the scope 'send'",
    )
    assert await rows(doors, "caller", "operation", "outcome", "detail", "address") == [
        ("reader", SEND_MESSAGE, "PermissionDenied", error.message, ADDRESS)
    ]


async def test_refused_reading_is_told_and_not_stored(database, caplog):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("sender", "send"), engine=ENGINE)
    error = await refused(doors, operation(GET_INFO, unreached), unread, visit("sender"))
    assert error.code is CODE.PERMISSION_DENIED
    (line,) = told(caplog)
    assert (line["key"], line["operation"], line["outcome"]) == ("sender", GET_INFO, "PermissionDenied")
    assert await rows(doors, "pk") == []


@pytest.mark.parametrize(("rpc", "stored"), [(SEND_MESSAGE, ["ResourceExhausted"]), (GET_INFO, [])])
async def test_call_beyond_the_rate(database, rpc, stored):
    doors = make_doors(database, caller("often", "read", "send", calls_per_minute=2), engine=ENGINE)
    broken = operation(rpc, Doing(error=invalid("field", "is wrong")))
    request = broken.request_class
    for _ in range(2):
        assert (await refused(doors, broken, request, visit("often"))).code is CODE.INVALID_ARGUMENT
    error = await refused(doors, operation(rpc, unreached), unread, visit("often"))
    assert error.code is CODE.RESOURCE_EXHAUSTED
    assert 1 <= error.retry_after <= 60
    outcomes = [outcome for (outcome,) in await rows(doors, "outcome")]
    assert [outcome for outcome in outcomes if outcome != "InvalidArgument"] == stored


@pytest.mark.parametrize(
    ("who", "scope", "code"),
    [
        (visit("app"), "read", None),
        (visit("app"), "pay", CODE.PERMISSION_DENIED),
        (visit(), "read", CODE.UNAUTHENTICATED),
    ],
)
async def test_admission_to_what_is_no_operation(database, caplog, who, scope, code):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("app", "read"))
    if code is None:
        assert doors.admit(who, scope, "/metrics").name == "app"
        assert told(caplog) == []
        return
    with pytest.raises(ApiError) as error:
        doors.admit(who, scope, "/metrics")
    assert error.value.code is code
    assert [line["operation"] for line in told(caplog)] == ["metrics"]


# here or forwarded


class Forwarding:
    """As nodeapi.forward.Forwarder."""

    def __init__(self) -> None:
        self.passed_on: list[tuple] = []

    async def call(self, operation, request, visit):
        self.passed_on.append((operation.rpc_path, request, visit))
        return messaging_pb2.SendMessageResponse(id="of the other process")


@pytest.mark.parametrize(
    ("rpc", "engine", "rate", "forwarded"),
    [
        (SEND_MESSAGE, ENGINE, None, False),
        (LIST_MESSAGES, ENGINE, 10, False),
        (SEND_MESSAGE, None, None, True),
        # It asks for the engine, though it only reads.
        (GET_INFO, None, None, True),
        (LIST_MESSAGES, None, None, False),
        # Calls are counted in one place.
        (LIST_MESSAGES, None, 10, True),
    ],
)
async def test_where_a_call_is_carried_out(database, rpc, engine, rate, forwarded):
    doing, forwarder = Doing(), Forwarding()
    who = caller("app", "read", "send", calls_per_minute=rate)
    doors = make_doors(database, who, engine=engine, forwarder=None if engine else forwarder)
    row = operation(rpc, doing)
    request = REQUEST if rpc == SEND_MESSAGE else row.request_class()
    await doors.call(row, lambda: request, visit("app"))
    assert forwarder.passed_on == ([(row.rpc_path, request, visit("app"))] if forwarded else [])
    assert len(doing.asked) == (0 if forwarded else 1)


async def test_what_is_forwarded_is_judged_and_noted_by_the_other_process(database, caplog):
    caplog.set_level(logging.INFO)
    forwarder = Forwarding()
    doors = make_doors(
        database, caller("reader", "read", calls_per_minute=1), engine=None, forwarder=forwarder
    )
    for _ in range(3):
        reply = await doors.call(operation(SEND_MESSAGE), lambda: REQUEST, visit("reader"))
        assert reply.id == "of the other process"
    assert len(forwarder.passed_on) == 3
    assert await rows(doors, "pk") == told(caplog) == []


async def test_request_that_cannot_be_read_is_not_forwarded(database):
    forwarder = Forwarding()
    doors = make_doors(database, caller("app", "send"), engine=None, forwarder=forwarder)

    def unreadable() -> Message:
        raise invalid("amount", "must be a whole number of 64 bits")

    error = await refused(doors, operation(SEND_MESSAGE), unreadable, visit("app"))
    assert error.message == "amount: must be a whole number of 64 bits"
    assert not forwarder.passed_on


# the request


async def test_function_gets_the_checked_fields(database):
    doing = Doing({"id": "x"})
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    request = messaging_pb2.SendMessageRequest(msg=b"body", pubkey=PUBKEY.upper())
    reply = await doors.call(operation(SEND_MESSAGE, doing), lambda: request, visit("app"))
    assert reply == messaging_pb2.SendMessageResponse(id="x")
    assert doing.asked == [
        {
            "msg": b"body",
            "pubkey": PUBKEY,
            "amount": 1,
            "reply_to_id": None,
            "expires_in": None,
            "claim": None,
        }
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pubkey": PUBKEY}, "msg: is missing or empty"),
        ({"msg": b"x"}, "pubkey: is missing"),
        ({"msg": b"x", "pubkey": "no key"}, "pubkey: must be 66 hexadecimal digits"),
        ({"msg": b"x", "pubkey": PUBKEY, "amount": -5}, "amount: must not be negative"),
        ({"msg": b"x", "pubkey": PUBKEY, "reply_to_id": "no id"}, "reply_to_id: is not a UUID"),
    ],
)
async def test_wrong_field_is_named_and_its_value_is_not(database, fields, message):
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    request = messaging_pb2.SendMessageRequest(**fields)
    error = await refused(doors, operation(SEND_MESSAGE, unreached), lambda: request, visit("app"))
    assert (error.code, error.message) == (CODE.INVALID_ARGUMENT, message)
    assert await rows(doors, "outcome", "detail") == [("InvalidArgument", message)]


# errors

NODE_LOG = "internal error; the node's log tells more"
DATABASE = (
    "the database cannot do this now, it may be away or its disk full (the node's log tells); try again"
)


@pytest.mark.parametrize(
    ("error", "code", "message", "retry_after"),
    [
        (ApiError(CODE.NOT_FOUND, "id: none"), CODE.NOT_FOUND, "id: none", None),
        (
            ApiError(CODE.UNAVAILABLE, "lnd is away", retry_after_seconds=2),
            CODE.UNAVAILABLE,
            "lnd is away",
            2,
        ),
        (
            KeyReused("the key itself"),
            CODE.ALREADY_EXISTS,
            "Idempotency-Key: was given before, with another request",
            None,
        ),
        (OverBudget("3 of 5 sat are left"), CODE.RESOURCE_EXHAUSTED, "3 of 5 sat are left", None),
        (OverBudget("none are left", seconds=59.2), CODE.RESOURCE_EXHAUSTED, "none are left", 60),
        (OperationalError("no such table: secret_table"), CODE.UNAVAILABLE, DATABASE, None),
        (ValueError("secret value"), CODE.INTERNAL, NODE_LOG, None),
        (asyncio.QueueFull(), CODE.INTERNAL, NODE_LOG, None),
    ],
)
@pytest.mark.parametrize("rpc", [SEND_MESSAGE, GET_INFO])
async def test_errors_become_statuses(database, error, code, message, retry_after, rpc):
    doors = make_doors(database, caller("app", "read", "send"), engine=ENGINE)
    row = operation(rpc, Doing(error=error))
    request = REQUEST if rpc == SEND_MESSAGE else node_pb2.GetInfoRequest()
    told_error = await refused(doors, row, lambda: request, visit("app"))
    assert (told_error.code, told_error.message, told_error.retry_after) == (code, message, retry_after)
    noted = [(told_error.status_name, message)] if rpc == SEND_MESSAGE else []
    assert await rows(doors, "outcome", "detail") == noted


async def test_refusal_over_a_budget_counts_for_the_key(database):
    doors = make_doors(database, caller("spender", "send"), engine=ENGINE)
    labels = {"key": "spender", "cause": "budget"}
    before = metrics.PROCESS.get_sample_value("impervious_key_refusals_total", labels) or 0.0
    row = operation(SEND_MESSAGE, Doing(error=OverBudget("none are left")))
    await refused(doors, row, lambda: REQUEST, visit("spender"))
    assert metrics.PROCESS.get_sample_value("impervious_key_refusals_total", labels) == before + 1


async def test_reply_that_is_no_message_is_an_internal_error(database):
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    row = operation(SEND_MESSAGE, Doing({"no_such_field": 1}))
    error = await refused(doors, row, lambda: REQUEST, visit("app"))
    assert (error.code, error.message) == (CODE.INTERNAL, NODE_LOG)


async def test_unexpected_errors_are_in_the_log_with_their_place(database, caplog):
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    row = operation(SEND_MESSAGE, Doing(error=ValueError("what went wrong")))
    await refused(doors, row, lambda: REQUEST, visit("app"))
    (record,) = [record for record in caplog.records if record.name == "nodeapi.doors"]
    assert record.getMessage() == f"/{SEND_MESSAGE} failed"
    assert str(record.exc_info[1]) == "what went wrong"


@pytest.mark.parametrize(
    "error",
    [None, KeyReused("secret of its own"), OperationalError("a secret body"), invalid("msg", "is wrong")],
)
async def test_no_body_and_no_key_is_repeated(database, caplog, error):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    who = visit("app", idempotency_key="secret of its own")
    row = operation(SEND_MESSAGE, Doing({"id": str(uuid4())}, error))
    message = ""
    try:
        await doors.call(row, lambda: REQUEST, who)
    except ApiError as refusal:
        message = refusal.message
    await doors.audit.flush()
    (line,) = told(caplog)
    (stored,) = await database.read(lambda: list(AuditEntry.objects.values()))
    everything = f"{message} {line} {stored}"
    for secret in ("a secret body", "secret of its own", who.metadata["authorization"]):
        assert secret not in everything


# what is noted of a call


@pytest.mark.parametrize(
    ("rpc", "request_", "outcome", "amount_msat"),
    [
        # Done once, and nothing was stored this time.
        (SEND_MESSAGE, REQUEST, "repeated", 3_000),
        (START_SOCKET, socket_pb2.StartSocketRequest(), "done", None),
    ],
)
async def test_end_of_a_call_that_stored_nothing(database, rpc, request_, outcome, amount_msat):
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    message_id = uuid4()
    doing = Doing({"id": str(message_id)} if rpc == SEND_MESSAGE else {})
    await doors.call(operation(rpc, doing), lambda: request_, visit("app"))
    expected_id = message_id if rpc == SEND_MESSAGE else None
    assert await rows(doors, "caller", "operation", "outcome", "amount_msat", "message_id", "spends") == [
        ("app", rpc, outcome, amount_msat, expected_id, False)
    ]


@pytest.mark.parametrize("paid", [False, True])
async def test_end_of_a_call_that_stored_messages(database, caplog, paid):
    caplog.set_level(logging.DEBUG, "audit")
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    message_id = uuid4()

    async def send(doors, **fields):
        await store_note(doors, message_id)
        if paid:
            current_call().outcome = AuditEntry.Outcome.PAID
        return {"id": str(message_id)}

    await doors.call(operation(SEND_MESSAGE, send), lambda: REQUEST, visit("app"))
    outcome = "paid" if paid else "accepted"
    assert await rows(doors, "outcome", "peer", "amount_msat", "message_id", "spends") == [
        (outcome, PUBKEY, 3_000, message_id, True)
    ]
    (line,) = told(caplog)
    assert (line["msg"], line["key"], line["outcome"]) == ("call", "app", outcome)
    assert (line["message_id"], line["client"]) == (str(message_id), ADDRESS)
    assert line["levelname"] == ("INFO" if paid else "DEBUG")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (True, ("FailedPrecondition", "the invoice has expired", True)),
        (False, ("FailedPrecondition", "the invoice has expired", False)),
    ],
)
async def test_refusal_after_and_before_something_was_stored(database, stored, expected):
    """The row that keeps the key's budget stays; what was not stored spends nothing."""
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)

    async def pay(doors, **fields):
        if stored:
            await store_note(doors, uuid4())
        else:
            current_call().note(item_id=uuid4(), peer=PUBKEY, amount_msat=1)
        raise ApiError(CODE.FAILED_PRECONDITION, "the invoice has expired")

    await refused(doors, operation(SEND_MESSAGE, pay), lambda: REQUEST, visit("app"))
    assert await rows(doors, "outcome", "detail", "spends") == [expected]


LEFT = "the caller did not wait for the answer"


@pytest.mark.parametrize(
    ("stored", "row", "line"),
    [(False, ("Cancelled", LEFT), "Cancelled"), (True, ("accepted", ""), "accepted")],
)
async def test_caller_who_does_not_wait(database, caplog, stored, row, line):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    working = asyncio.Event()

    async def work(doors, **fields):
        if stored:
            await store_note(doors, uuid4())
        working.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(doors.call(operation(SEND_MESSAGE, work), lambda: REQUEST, visit("app")))
    await working.wait()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert await rows(doors, "outcome", "detail") == [row]
    assert [(entry["outcome"], entry["detail"]) for entry in told(caplog)] == [(line, LEFT)]


@pytest.mark.parametrize(
    ("error", "row"),
    [(None, ("accepted", "", True)), (OperationalError("away"), ("Cancelled", LEFT, False))],
)
async def test_caller_who_leaves_between_acceptance_and_commit_gets_one_row(database, caplog, error, row):
    """What became of the call is known when what it was storing is stored, or is not."""
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    storing, may_commit, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def store() -> None:
        note = current_call().note(item_id=uuid4(), peer=PUBKEY, amount_msat=3_000)
        storing.set()
        await may_commit.wait()
        try:
            if error:
                raise error
            await doors.database.write(lambda: notes.store([note]))
        finally:
            ended.set()

    async def work(doors, **fields):
        await notes.to_its_end(store())

    call = asyncio.create_task(doors.call(operation(SEND_MESSAGE, work), lambda: REQUEST, visit("app")))
    await storing.wait()
    call.cancel()
    await asyncio.wait({call})
    assert await rows(doors, "pk") == []
    may_commit.set()
    await ended.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await rows(doors, "outcome", "detail", "spends") == [row]


async def test_reader_who_does_not_wait_leaves_no_trace(database, caplog):
    caplog.set_level(logging.INFO)
    doors = make_doors(database, caller("app", "read"), engine=ENGINE)
    row = operation(GET_INFO, Doing(error=asyncio.CancelledError()))
    with pytest.raises(asyncio.CancelledError):
        await doors.call(row, node_pb2.GetInfoRequest, visit("app"))
    assert await rows(doors, "pk") == told(caplog) == []


@pytest.mark.parametrize("error", [None, ValueError(), asyncio.CancelledError()])
async def test_call_is_current_while_it_is_carried_out(database, error):
    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    seen = []

    async def look(doors, **fields):
        seen.append(current_call())
        if error:
            raise error
        return {}

    with contextlib.suppress(ApiError, asyncio.CancelledError):
        await doors.call(operation(SEND_MESSAGE, look), lambda: REQUEST, visit("app"))
    assert current_call() is None
    (call,) = seen
    assert (call.caller.name, call.operation, call.address) == ("app", SEND_MESSAGE, ADDRESS)
    assert (call.peer, call.amount_msat) == (PUBKEY, 3_000)


# Idempotency-Key


async def claim(doors: Doors, who: str, key: str, request: Message, rpc: str = SEND_MESSAGE) -> Claim:
    """What the operation's function gets."""
    doing = Doing()
    await doors.call(operation(rpc, doing), lambda: request, visit(who, idempotency_key=key))
    return doing.asked[0]["claim"]


@pytest.fixture
def two_callers(database) -> Doors:
    return make_doors(database, caller("app", "send"), caller("other", "send"), engine=ENGINE)


@pytest.mark.parametrize("key", ["k", "k" * 255, "with spaces, ü and €"])
async def test_claim_of_a_key(two_callers, key):
    found = await claim(two_callers, "app", key, REQUEST)
    assert (found.caller, found.key, len(found.request_hash)) == ("app", key, 32)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\0b"])
async def test_key_that_is_refused(two_callers, key):
    row = operation(SEND_MESSAGE, unreached)
    error = await refused(two_callers, row, lambda: REQUEST, visit("app", idempotency_key=key))
    assert error.code is CODE.INVALID_ARGUMENT
    assert error.message == "Idempotency-Key: must have 1 to 255 characters, none of them NUL"


@pytest.mark.parametrize("key", ["Ключ 🔑", "e\u0301", "👩‍👧", "line\nfeed", "k" * 254 + "\U0001f511"])
async def test_key_may_hold_any_text_as_its_bytes_in_utf_8(two_callers, key):
    header = key.encode().decode("latin-1")
    assert (await claim(two_callers, "app", header, REQUEST)).key == key


async def test_key_in_latin_1_is_taken_too(two_callers):
    assert (await claim(two_callers, "app", "zwölf", REQUEST)).key == "zwölf"


async def test_claims_are_the_same_for_the_same_request_of_the_same_caller(two_callers):
    same = messaging_pb2.SendMessageRequest()
    same.CopyFrom(REQUEST)
    assert await claim(two_callers, "app", "k", REQUEST) == await claim(two_callers, "app", "k", same)


async def test_claims_are_the_same_for_an_equal_request(two_callers):
    """The key in capitals, and defaults written out."""
    plain = messaging_pb2.SendMessageRequest(msg=b"hi", pubkey=PUBKEY)
    explicit = messaging_pb2.SendMessageRequest(
        msg=b"hi", pubkey=PUBKEY.upper(), amount=1, expires_in=ENGINE.limits.expires_seconds
    )
    assert await claim(two_callers, "app", "k", plain) == await claim(two_callers, "app", "k", explicit)


async def test_claims_differ_with_the_request_and_the_caller(two_callers):
    other_amount = messaging_pb2.SendMessageRequest(msg=b"a secret body", pubkey=PUBKEY, amount=4)
    first = await claim(two_callers, "app", "k", REQUEST)
    assert (await claim(two_callers, "app", "k", other_amount)).request_hash != first.request_hash
    assert (await claim(two_callers, "other", "k", REQUEST)).caller == "other"


def test_claims_differ_with_the_operation():
    """Though the bytes of the request are the same."""
    who, metadata = caller("app", "send"), {"idempotency-key": "k"}
    hashes = {
        claim_of(who, operation(rpc), {"msg": b"hi"}, metadata).request_hash
        for rpc in (SEND_MESSAGE, "websocket.Websocket/Send", "messaging.Messaging/Broadcast")
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("rpc", [START_SOCKET, LIST_MESSAGES])
async def test_call_that_cannot_keep_to_a_key_refuses_it(database, rpc):
    doors = make_doors(database, caller("app", "send", "read"), engine=ENGINE)
    row = operation(rpc, unreached)
    error = await refused(doors, row, row.request_class, visit("app", idempotency_key="k"))
    assert error.code is CODE.INVALID_ARGUMENT
    assert error.message.startswith(f"Idempotency-Key: is not for {row.method}")


async def test_stream_refuses_a_key(database):
    doors = make_doors(database, caller("app", "read"), engine=ENGINE)
    with pytest.raises(ApiError, match="Idempotency-Key: is not for Subscribe"):
        doors.admit(visit("app", idempotency_key="k"), "read", "/websocket.Websocket/Subscribe")


@pytest.mark.parametrize("kind", [IntegrityError, DataError])
async def test_fault_of_the_node_is_not_told_as_a_full_disk(two_callers, kind):
    row = operation(SEND_MESSAGE, Doing(error=kind("UNIQUE constraint failed")))
    error = await refused(two_callers, row, lambda: REQUEST, visit("app"))
    assert (error.code, error.message) == (CODE.INTERNAL, "internal error; the node's log tells more")


async def test_what_needs_lnd_waits_for_it(database):
    """History is told from the first second; what needs lnd is unavailable, in the words of what the node waits for."""
    doors = make_doors(database, caller("shop", "read", "send"))
    doors.waiting_for = "the node waits for lnd at 127.0.0.1:10009"
    error = await refused(doors, operation(SEND_MESSAGE), lambda: REQUEST, visit("shop"))
    assert (error.code, error.message) == (CODE.UNAVAILABLE, doors.waiting_for)
    listed = await doors.call(operation(LIST_MESSAGES), messaging_pb2.ListMessagesRequest, visit("shop"))
    assert list(listed.messages) == []


@pytest.mark.parametrize(
    ("asked", "state"), [(True, "waiting for lnd"), (False, "starting")], ids=["lnd away", "not asked yet"]
)
async def test_node_tells_of_itself_before_lnd_has_answered(database, asked, state):
    lnd = LndStatus(connected("own", "other")[0])
    if asked:
        lnd.trouble, lnd.problem = "lnd does not answer", Trouble.AWAY
    rows = [
        SimpleNamespace(service_type=name, custom_record_number=number, active=active)
        for name, number, active in (("message", 400000, True), ("vpn", 200000, False))
    ]
    doors = make_doors(
        database, caller("shop", "read"), lnd=lnd, services=tuple(rows), hub=SimpleNamespace(last_seq=7)
    )
    doors.waiting_for = "lnd does not answer; the node waits for it"
    told = await doors.call(operation(GET_INFO), node_pb2.GetInfoRequest, visit("shop"))
    assert (told.state, told.version, told.pubkey, told.lnd_reachable) == (state, "1.2.3", "", False)
    assert (list(told.warnings), told.last_seq) == ([doors.waiting_for], 7)
    assert {service.service_type: service.state for service in told.services} == {
        "message": "waiting",
        "vpn": "off",
    }
    error = await refused(doors, operation(GET_INFO, unreached), unread, visit())
    assert error.code is CODE.UNAUTHENTICATED


async def test_calls_that_have_begun_are_answered_before_the_end(database):
    begun, go = asyncio.Event(), asyncio.Event()

    async def read() -> Message:
        begun.set()
        await go.wait()
        return messaging_pb2.ListMessagesRequest()

    doors = make_doors(database, caller("shop", "read"))
    call = asyncio.create_task(doors.call(operation(LIST_MESSAGES), read, visit("shop")))
    await begun.wait()
    draining = asyncio.create_task(doors.drain(60.0))
    await asyncio.sleep(0)
    late = await refused(doors, operation(LIST_MESSAGES), unread, visit("shop"))
    assert late.code is CODE.UNAVAILABLE
    assert "stopping" in late.message
    assert not draining.done()
    go.set()
    assert list((await call).messages) == []
    await draining


async def test_calls_that_take_too_long_at_a_stop_are_answered_so(database, monkeypatch):
    """What one of them has stored goes on, and the audit log says why there was no answer."""
    stored, answered = asyncio.Event(), uuid4()

    async def store_and_wait(doors, **fields) -> dict:
        await store_note(doors, answered)
        stored.set()
        await asyncio.get_running_loop().create_future()

    doors = make_doors(database, caller("app", "send"), engine=ENGINE)
    row = operation(SEND_MESSAGE, store_and_wait)
    call = asyncio.create_task(doors.call(row, lambda: REQUEST, visit("app")))
    await stored.wait()
    await doors.drain(0.0)
    with pytest.raises(ApiError) as error:
        await call
    assert (error.value.code, error.value.message) == (CODE.UNAVAILABLE, UNFINISHED)
    assert await rows(doors, "message_id", "caller") == [(answered, "app")]


async def test_call_that_is_never_answered_keeps_nobody(database, caplog):
    doors = make_doors(database, caller("shop", "read"))
    call = asyncio.create_task(doors.call(operation(LIST_MESSAGES), asyncio.Event().wait, visit("shop")))
    await asyncio.sleep(0)
    await doors.drain(0.0)
    assert "calls that were not answered in time" in caplog.text
    call.cancel()


async def test_streams_end_with_the_process(database):
    doors = make_doors(database, caller("shop", "read"))
    ended = []
    doors.keys.watch(caller("shop", "read"), ended.append)
    await doors.drain(0.0)
    await asyncio.sleep(0)
    assert [error.code for error in ended] == [CODE.UNAVAILABLE]


async def test_database_that_is_away_fills_no_log(database, caplog):
    async def away(doors, **fields):
        raise OperationalError("the disk is full")

    doors = make_doors(database, caller("shop", "read"))
    listing = operation(LIST_MESSAGES, away)
    for _ in range(50):
        error = await refused(doors, listing, messaging_pb2.ListMessagesRequest, visit("shop"))
        assert error.code is CODE.UNAVAILABLE
    (line,) = [vars(record) for record in caplog.records if "the database cannot be used" in record.message]
    assert (line["error"], line["count"]) == ("the disk is full", 1)
