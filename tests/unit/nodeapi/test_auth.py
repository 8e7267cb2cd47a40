"""API keys and scopes, streams that end with their key, and the checks of Host and Origin."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from django.db import OperationalError
from django.utils import timezone

from messaging import metrics
from nodeapi import auth
from nodeapi.auth import NOBODY, Caller, Keys, Visit, WebGuard, headers_of, visit_of
from nodeapi.errors import ApiError
from nodeapi.keys import StoredKey, StoredKeys, hash_of
from tests.support.doors import caller, secret_of, visit
from tests.support.waiting import until_in_loop

CODE = grpc.StatusCode
LOOPBACK, ELSEWHERE = "127.0.0.1", "203.0.113.5"
PAST, FUTURE = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC), timezone.now() + timedelta(days=1)


class Table:
    """As messaging.database.Database, for who reads the API keys."""

    def __init__(self, *keys: StoredKey, any_ever: bool | None = None):
        self.looks = 0
        self.trouble: Exception | None = None
        self.set(*keys, any_ever=any_ever)

    def set(
        self, *keys: StoredKey, any_ever: bool | None = None, revoked: dict[bytes, str] | None = None
    ) -> None:
        any_ever = bool(keys) if any_ever is None else any_ever
        self._stored = StoredKeys(keys=keys, any_ever=any_ever, revoked=revoked or {})

    async def read(self, job) -> StoredKeys:
        self.looks += 1
        if self.trouble:
            raise self.trouble
        return self._stored


def stored(name: str, *scopes: str, **limits) -> StoredKey:
    fields = {"budget_sat": None, "calls_per_minute": None, "expires_at": None} | limits
    return StoredKey(name=name, hash=hash_of(secret_of(name)), scopes=scopes, **fields)


def make_keys(table: Table, *configured: Caller, open_on_loopback: bool = False, tells: bool = False) -> Keys:
    return Keys(configured, database=table, open_on_loopback=open_on_loopback, tells=tells)


async def loaded(table: Table, *configured: Caller, **options: bool) -> Keys:
    keys = make_keys(table, *configured, **options)
    await keys.load()
    return keys


def refused(keys: Keys, who: Visit) -> str:
    with pytest.raises(ApiError) as error:
        keys.authenticate(who)
    assert error.value.code is CODE.UNAUTHENTICATED
    return error.value.message


@asynccontextmanager
async def looking(keys: Keys) -> AsyncIterator[None]:
    task = asyncio.create_task(keys.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def looked(table: Table) -> None:
    """Until what is there now has been read and heeded."""
    wanted = table.looks + 2
    await until_in_loop(lambda: table.looks >= wanted)


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch):
    monkeypatch.setattr(auth, "LOOK_SECONDS", 0)


# keys

APP = secret_of("app")


@pytest.mark.parametrize(
    "metadata",
    [
        {"authorization": f"Bearer {APP}"},
        {"authorization": f"bearer {APP}"},
        {"authorization": f"BEARER   {APP} "},
        {"x-api-key": APP},
        {"grpc-metadata-x-api-key": APP},
        {"authorization": "Basic dXNlcg==", "x-api-key": APP},
        {"authorization": "Bearer ", "x-api-key": APP},
        {"grpc-metadata-x-api-key": APP, "x-api-key": "another"},
        {"authorization": f"Bearer {APP}", "x-api-key": "another"},
    ],
)
async def test_where_a_key_may_stand(metadata):
    keys = await loaded(Table(), caller("app", "read"))
    assert keys.authenticate(Visit(metadata=metadata)).name == "app"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        ({"authorization": APP}, "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        ({"authorization": f"Basic {APP}"}, "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        ({"x-api-key": ""}, "an API key is needed: Authorization: Bearer KEY (or X-API-KEY)"),
        ({"authorization": f"Bearer {APP}x"}, "the API key is not known"),
        ({"authorization": "Bearer x", "x-api-key": APP}, "the API key is not known"),
        ({"x-api-key": APP.upper()}, "the API key is not known"),
        ({"x-api-key": hash_of(APP).hex()}, "the API key is not known"),
    ],
)
async def test_what_is_no_key(metadata, message):
    keys = await loaded(Table(), caller("app", "read"))
    assert refused(keys, Visit(metadata=metadata)) == message


async def test_keys_of_the_configuration_and_of_the_database():
    of_database = stored("stored", "send", budget_sat=5, calls_per_minute=6, expires_at=FUTURE)
    keys = await loaded(Table(of_database), caller("app", "read"))
    assert keys.authenticate(visit("app")) == caller("app", "read")
    assert keys.authenticate(visit("stored")) == caller(
        "stored", "send", budget_sat=5, calls_per_minute=6, expires_at=FUTURE
    )


@pytest.mark.parametrize(
    ("expires_at", "message"),
    [
        (PAST, "the API key 'app' expired at 2024-05-06 07:08:09 UTC"),
        (FUTURE, None),
        (None, None),
    ],
)
async def test_expiry(expires_at, message):
    keys = await loaded(Table(stored("app", "read", expires_at=expires_at)))
    if message is None:
        assert keys.authenticate(visit("app")).name == "app"
    else:
        assert refused(keys, visit("app")) == message


def test_key_has_expired_at_the_moment_itself(monkeypatch):
    monkeypatch.setattr(auth.timezone, "now", lambda: PAST)
    assert caller("app", expires_at=PAST).has_expired
    assert not caller("app", expires_at=PAST + timedelta(microseconds=1)).has_expired


async def test_name_in_the_configuration_is_not_valid_in_the_database(caplog):
    imposter = replace(stored("app", "read", "send", "pay"), hash=hash_of("another key"))
    keys = await loaded(Table(imposter, stored("other", "read")), caller("app", "read"))
    assert refused(keys, Visit(metadata={"x-api-key": "another key"})) == "the API key is not known"
    assert keys.authenticate(visit("app")).scopes == {"read"}
    assert keys.authenticate(visit("other")).name == "other"
    (warning,) = caplog.messages
    assert "'app' in the database has the name of one in server.api_keys" in warning


# scopes and rates


async def test_scope_that_is_lacking():
    keys = await loaded(Table(), caller("app", "read", "send"))
    app = keys.authenticate(visit("app"))
    keys.require(app, "send")
    with pytest.raises(ApiError) as error:
        keys.require(app, "pay")
    assert error.value.code is CODE.PERMISSION_DENIED
    assert error.value.message == "the API key 'app' lacks the scope 'pay'"


async def test_calls_count_with_and_without_the_scope():
    keys = await loaded(Table(), caller("app", "read", calls_per_minute=2), caller("free", "read"))
    app, free = (keys.authenticate(visit(name)) for name in ("app", "free"))
    codes = []
    for scope in ("read", "pay", "read", "pay"):
        try:
            keys.require(app, scope)
            codes.append(None)
        except ApiError as error:
            codes.append(error.code)
    assert codes == [None, CODE.PERMISSION_DENIED, CODE.RESOURCE_EXHAUSTED, CODE.RESOURCE_EXHAUSTED]
    for _ in range(5):
        keys.require(free, "read")


async def test_admission_is_all_of_it():
    keys = await loaded(Table(), caller("app", "read", calls_per_minute=1))
    assert keys.admit(visit("app"), "read").name == "app"
    for who, code in ((visit("app"), CODE.RESOURCE_EXHAUSTED), (visit(), CODE.UNAUTHENTICATED)):
        with pytest.raises(ApiError) as error:
            keys.admit(who, "read")
        assert error.value.code is code


# what is counted


def counted(name: str, key: str, **labels: str) -> float:
    sample = f"impervious_key_{name}_total"
    return metrics.PROCESS.get_sample_value(sample, {"key": key, **labels}) or 0.0


@pytest.mark.parametrize(
    ("who", "scope", "key", "cause"),
    [
        (visit(), "read", "", "missing"),
        (visit("stranger"), "read", "", "unknown"),
        (visit("gone"), "read", "gone", "revoked"),
        (visit("old"), "read", "old", "expired"),
        (visit("app"), "pay", "app", "scope"),
        (visit("busy"), "read", "busy", "rate"),
    ],
)
async def test_refusals_are_counted_by_key_and_cause(who, scope, key, cause):
    table = Table()
    table.set(any_ever=True, revoked={hash_of(secret_of("gone")): "gone"})
    keys = await loaded(
        table,
        caller("old", "read", expires_at=PAST),
        caller("app", "read"),
        caller("busy", "read", calls_per_minute=1),
    )
    keys.admit(visit("busy"), "read")
    before = counted("refusals", key, cause=cause)
    with pytest.raises(ApiError):
        keys.admit(who, scope)
    assert counted("refusals", key, cause=cause) == before + 1


async def test_calls_are_counted_by_key():
    keys = await loaded(Table(), caller("counted", "read"))
    assert metrics.PROCESS.get_sample_value("impervious_key_calls_total", {"key": "counted"}) == 0
    assert (
        metrics.PROCESS.get_sample_value("impervious_key_refusals_total", {"key": "counted", "cause": "rate"})
        == 0
    )
    for _ in range(3):
        keys.admit(visit("counted"), "read")
    assert counted("calls", "counted") == 3
    assert [one.name for one in keys.callers] == ["counted"]


# a node without keys


@pytest.mark.parametrize(
    ("on_loopback", "configured", "any_ever", "is_open"),
    [
        (True, (), False, True),
        (False, (), False, False),
        (True, (caller("app"),), False, False),
        # One that was revoked has closed the node.
        (True, (), True, False),
    ],
)
async def test_when_no_key_is_needed(on_loopback, configured, any_ever, is_open):
    keys = await loaded(Table(any_ever=any_ever), *configured, open_on_loopback=on_loopback)
    assert keys.is_open is is_open
    if is_open:
        assert keys.authenticate(visit(address=LOOPBACK)) is NOBODY
    else:
        assert refused(keys, visit(address=LOOPBACK)).startswith("an API key is needed")


def test_nobody_passes_before_the_keys_are_read():
    keys = make_keys(Table(), open_on_loopback=True)
    assert not keys.is_open
    assert refused(keys, visit(address=LOOPBACK)).startswith("an API key is needed")


def test_who_needs_no_key_may_do_everything():
    assert NOBODY.scopes == {"read", "send", "pay", "admin"}
    assert NOBODY.name == ""
    assert NOBODY.budget_sat is NOBODY.calls_per_minute is None
    assert not NOBODY.has_expired


@pytest.mark.parametrize(
    ("address", "at", "told", "passes"),
    [
        ("", "", "", True),
        (LOOPBACK, LOOPBACK, "", True),
        ("127.8.9.10", "", "", True),
        ("::1", "::1", "", True),
        ("::ffff:127.0.0.1", "", "", True),
        # A socket of this machine.
        ("", "/run/node.sock", "", True),
        (LOOPBACK, LOOPBACK, "127.0.0.1, ::1", True),
        (ELSEWHERE, "", "", False),
        (LOOPBACK, "192.168.1.2", "", False),
        ("::ffff:203.0.113.5", "", "", False),
        (LOOPBACK, LOOPBACK, ELSEWHERE, False),
        (LOOPBACK, LOOPBACK, f"127.0.0.1, {ELSEWHERE}:4711", False),
        (LOOPBACK, LOOPBACK, f"{ELSEWHERE}, 127.0.0.1", False),
        (LOOPBACK, LOOPBACK, "[2001:db8::1]:4711", False),
    ],
)
async def test_open_node_is_open_to_this_machine_only(address, at, told, passes):
    keys = await loaded(Table(), open_on_loopback=True)
    metadata = {"x-forwarded-for": told} if told else {}
    who = Visit(metadata=metadata, address=address, at=at)
    if passes:
        assert keys.authenticate(who) is NOBODY
    else:
        assert refused(keys, who).startswith("an API key is needed")


# keys that change while the node runs


async def test_keys_are_known_and_forgotten_while_the_node_runs(caplog):
    caplog.set_level(logging.INFO)
    table = Table(stored("first", "read"))
    keys = await loaded(table, tells=True)
    async with looking(keys):
        table.set(stored("first", "read"), stored("second", "read"))
        await looked(table)
        assert keys.authenticate(visit("second")).name == "second"
        table.set(stored("first", "read", "send"), stored("second", "read"))
        await looked(table)
        assert keys.authenticate(visit("first")).scopes == {"read", "send"}
        table.set(stored("first", "read", "send"))
        await looked(table)
        assert refused(keys, visit("second")) == "the API key is not known"
    changes = [(record.key, record.change) for record in caplog.records if record.name == "audit"]
    assert changes == [("second", "made"), ("first", "changed"), ("second", "revoked")]


async def test_one_process_tells_of_changes(caplog):
    caplog.set_level(logging.INFO)
    table = Table()
    keys = await loaded(table, tells=False)
    async with looking(keys):
        table.set(stored("first", "read"))
        await looked(table)
        assert keys.authenticate(visit("first")).name == "first"
    assert not [record for record in caplog.records if record.name == "audit"]


async def test_key_in_place_of_another_with_its_name(caplog):
    caplog.set_level(logging.INFO)
    table = Table(stored("app", "read"))
    keys = await loaded(table, tells=True)
    async with looking(keys):
        table.set(replace(stored("app", "read"), hash=hash_of("new")))
        await looked(table)
        assert refused(keys, visit("app")) == "the API key is not known"
        assert keys.authenticate(Visit(metadata={"x-api-key": "new"})).name == "app"
    changes = [(record.key, record.change) for record in caplog.records if record.name == "audit"]
    assert sorted(changes) == [("app", "made"), ("app", "revoked")]


async def test_keys_of_before_hold_while_the_database_is_away(caplog):
    table = Table(stored("app", "read"))
    keys = await loaded(table)
    async with looking(keys):
        table.trouble = OperationalError("the server went away")
        for _ in range(3):
            await looked(table)
        assert keys.authenticate(visit("app")).name == "app"
        assert caplog.messages == [
            "the API keys could not be read (the server went away); those of before hold meanwhile"
        ]
        table.trouble = None
        table.set(any_ever=True)
        await looked(table)
        assert refused(keys, visit("app")) == "the API key is not known"
        table.trouble = OperationalError("away again")
        await looked(table)
    assert len(caplog.messages) == 2


async def test_keys_that_cannot_be_read_at_the_start():
    table = Table()
    table.trouble = OperationalError("away")
    with pytest.raises(OperationalError):
        await make_keys(table).load()


# streams


class Stream:
    """One that is open with a key, and the error that ends it."""

    def __init__(self, keys: Keys, who: Caller):
        self.ended: list[ApiError] = []
        self.forget = keys.watch(who, self.ended.append)


@pytest.mark.parametrize(
    ("now", "code", "message"),
    [
        ([], CODE.UNAUTHENTICATED, "the API key 'app' was revoked"),
        (
            [stored("app", "read", "send", expires_at=PAST)],
            CODE.UNAUTHENTICATED,
            "the API key 'app' expired at 2024-05-06 07:08:09 UTC",
        ),
        ([stored("app", "read")], CODE.PERMISSION_DENIED, "the API key 'app' has lost the scope 'send'"),
        ([stored("app", "admin")], CODE.PERMISSION_DENIED, "the API key 'app' has lost the scope 'read'"),
    ],
)
async def test_streams_end_with_their_key(now, code, message):
    other = stored("other", "read")
    table = Table(stored("app", "read", "send"), other)
    keys = await loaded(table)
    streams = [Stream(keys, keys.authenticate(visit("app"))) for _ in range(2)]
    kept = Stream(keys, keys.authenticate(visit("other")))
    async with looking(keys):
        await looked(table)
        assert not streams[0].ended
        table.set(*now, other)
        for _ in range(3):
            await looked(table)
    for stream in streams:
        (error,) = stream.ended
        assert (error.code, error.message) == (code, message)
        stream.forget()
    assert not kept.ended


@pytest.mark.parametrize(
    "now",
    [
        stored("app", "read", "send", "pay"),
        stored("app", "read", "send", budget_sat=0, calls_per_minute=1),
        stored("app", "read", "send", expires_at=FUTURE),
    ],
)
async def test_streams_outlive_other_changes_of_their_key(now):
    table = Table(stored("app", "read", "send"))
    keys = await loaded(table)
    stream = Stream(keys, keys.authenticate(visit("app")))
    async with looking(keys):
        table.set(now)
        for _ in range(2):
            await looked(table)
    assert not stream.ended


async def test_stream_ends_when_its_key_expires_while_the_database_is_away():
    table = Table(stored("app", "read", expires_at=PAST))
    keys = await loaded(table)
    stream = Stream(keys, replace(caller("app", "read"), expires_at=PAST))
    table.trouble = OperationalError("away")
    async with looking(keys):
        await looked(table)
    (error,) = stream.ended
    assert "expired at" in error.message


async def test_the_first_key_ends_the_streams_of_an_open_node():
    table = Table()
    keys = await loaded(table, open_on_loopback=True)
    stream = Stream(keys, keys.authenticate(visit(address=LOOPBACK)))
    async with looking(keys):
        for _ in range(2):
            await looked(table)
        assert not stream.ended
        table.set(stored("first", "read"))
        for _ in range(2):
            await looked(table)
    (error,) = stream.ended
    assert error.code is CODE.UNAUTHENTICATED
    assert error.message.endswith(", from now on")


async def test_stream_that_has_ended_by_itself_hears_nothing():
    table = Table(stored("app", "read"))
    keys = await loaded(table)
    app = keys.authenticate(visit("app"))
    left, stays = Stream(keys, app), Stream(keys, app)
    left.forget()
    left.forget()
    async with looking(keys):
        table.set(any_ever=True)
        for _ in range(2):
            await looked(table)
    assert not left.ended
    assert len(stays.ended) == 1


async def test_stream_of_a_key_that_was_gone_and_is_there_again_is_watched_anew():
    table = Table(stored("app", "read"))
    keys = await loaded(table)
    before = Stream(keys, keys.authenticate(visit("app")))
    async with looking(keys):
        table.set(any_ever=True)
        await looked(table)
        table.set(stored("app", "read"))
        await looked(table)
        after = Stream(keys, keys.authenticate(visit("app")))
        before.forget()
        table.set(any_ever=True)
        for _ in range(2):
            await looked(table)
    assert [len(stream.ended) for stream in (before, after)] == [1, 1]


async def test_a_revoked_key_is_called_revoked():
    table = Table(any_ever=True)
    keys = await loaded(table)
    assert refused(keys, visit("app")) == "the API key is not known"
    table.set(any_ever=True, revoked={hash_of(secret_of("app")): "app"})
    await keys.load()
    assert refused(keys, visit("app")) == "the API key 'app' was revoked"
    table.set(any_ever=True)
    async with looking(keys):
        await looked(table)
    assert refused(keys, visit("app")) == "the API key is not known"


async def test_keys_of_the_configuration_are_exchanged():
    keys = Keys([caller("app", "read")], database=Table(), open_on_loopback=True, tells=False)
    await keys.load()
    stream = Stream(keys, keys.authenticate(visit("app")))
    keys.configure([caller("shop", "read")])
    await asyncio.sleep(0)
    assert keys.authenticate(visit("shop")).name == "shop"
    assert refused(keys, visit("app")) == "the API key is not known"
    assert len(stream.ended) == 1


# Host and Origin

GUARD = WebGuard(
    allowed_hosts=["Node.Example"],
    allowed_origins=["https://App.example/", "tauri://localhost"],
    bound_hosts=["10.0.0.7"],
)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:8882", True),
        ("127.9.9.9", True),
        ("[::1]:8882", True),
        ("node.example", True),
        ("NODE.example:443", True),
        ("10.0.0.7:8882", True),
        ("", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("node.example.evil.example", False),
        ("10.0.0.8", False),
        ("[::1", False),
        ("given twice", False),
        ("node.example@evil.example", False),
    ],
)
def test_host(host, passes):
    if passes:
        GUARD.check({"host": host})
        return
    with pytest.raises(ApiError) as error:
        GUARD.check({"host": host})
    assert error.value.code is CODE.PERMISSION_DENIED
    assert error.value.message == "the Host header is not in server.allowed_hosts"


def test_host_that_is_missing():
    with pytest.raises(ApiError):
        GUARD.check({})


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("https://app.example", True),
        ("https://APP.example/", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("tauri://localhost", True),
        ("capacitor://localhost", False),
        ("tauri://localhost.evil.example", False),
        ("http://[::1]:8000", True),
        ("http://app.example", False),
        ("https://app.example:444", False),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("file://", False),
        ("ftp://localhost", False),
        ("http://[::1", False),
        ("", False),
        ("given twice", False),
    ],
)
def test_origin(origin, passes):
    assert GUARD.origin_allowed(origin) is passes
    if passes:
        GUARD.check({"host": "localhost", "origin": origin})
        return
    with pytest.raises(ApiError) as error:
        GUARD.check({"host": "localhost", "origin": origin})
    assert error.value.code is CODE.PERMISSION_DENIED
    assert error.value.message == "the Origin is not in server.allowed_origins"


# headers


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        ([(b"X-Api-KEY", b"k")], {"x-api-key": "k"}),
        ([(b"x", b"\xff")], {"x": "\xff"}),
        # Of what comes again the first counts, so that nothing is smuggled in behind it.
        ([(b"x-api-key", b"one"), (b"X-API-KEY", b"two")], {"x-api-key": "one"}),
        ([(b"x-forwarded-for", b"a"), (b"X-Forwarded-For", b"b, c")], {"x-forwarded-for": "a,b, c"}),
        ([(b"host", b"localhost"), (b"Host", b"localhost")], {"host": "given twice"}),
        ([(b"origin", b"null"), (b"origin", b"http://localhost")], {"origin": "given twice"}),
    ],
)
def test_headers(raw, headers):
    assert headers_of({"headers": raw}) == headers


@pytest.mark.parametrize(
    ("server", "at"),
    [(["10.0.0.7", 8882], "10.0.0.7"), (["/run/node.sock", None], "/run/node.sock"), (None, "")],
)
def test_visit(server, at):
    scope = {"client": [ELSEWHERE, 4711], "server": server, "headers": []}
    assert visit_of(scope, {"x": "y"}) == Visit(metadata={"x": "y"}, address=ELSEWHERE, at=at)
