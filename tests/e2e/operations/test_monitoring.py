"""Health, metrics and the log of whole nodes: what stops them is told with its reason, and what they did is counted."""

import json
import os
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.daphnes import Daphne
from tests.support.databases import ON_POSTGRES, only_on_postgres, only_on_sqlite
from tests.support.full_disk import full_disk
from tests.support.nodes import SERVICES, Node, Reply
from tests.support.scrapes import families, value
from tests.support.servers import PostgresServer, RedisServer
from tests.support.streams import (
    GUARD_SECONDS,
    SEND,
    LineStream,
    WebsocketStream,
    b64,
    grpc_stream,
    is_end,
    send,
)

KEY = "a-key-with-more-than-20-characters"
READER, SENDER = "reader-key-with-enough-characters", "sender-key-with-enough-characters"
AUTHORIZED = {"Authorization": f"Bearer {READER}"}
FULL = {"Authorization": f"Bearer {KEY}"}
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    """Of these tests alone: it is stopped."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer | None]:
    """Of these tests alone, because it is stopped; none where nodes are on SQLite."""
    if not ON_POSTGRES:
        yield None
        return
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def watched(network, redis, postgres, tmp_path_factory) -> Iterator[Node]:
    """carol's node, with keys, a budget, a Redis, a part of the log that tells more, and one service off."""
    directory = tmp_path_factory.mktemp("watched")
    scopes = {"reader": (READER, ["read"]), "sender": (SENDER, ["send"])}
    for name, (secret, _) in scopes.items():
        (directory / f"{name}.key").write_text(secret)
    extra = {
        "server": {
            "api_keys": [{"name": n, "key_file": f"{n}.key", "scopes": s} for n, (_, s) in scopes.items()]
        },
        "service_list": [
            {"service_type": name, "active": name != "sign", "custom_record_number": number}
            for name, number in SERVICES.items()
        ],
        "redis": {"url": redis.url},
        "lightning": {"daily_budget_sat": 1_000_000},
        "logging": {"parts": {"messaging": "debug", "nodeapi.engine": "error"}},
    }
    with Node(
        network.nodes["carol"],
        directory,
        extra=extra,
        environ={"IMPD_SERVER__API_KEY": KEY},
        database_url=postgres.new_database_url() if postgres else "",
    ) as node:
        yield node


@pytest.fixture(scope="module")
def daphne(watched) -> Iterator[Daphne]:
    with Daphne(watched) as beside:
        yield beside


def reasons(node: Node, kind: str = "reasons") -> set[tuple[str, str]]:
    return {(fault["part"], fault["reason"]) for fault in node.get("/health/ready").json[kind]}


def is_ready(node: Node) -> bool:
    return node.get("/health/ready").status == 200


def told_unready(node: Node, part: str, reason: str) -> bool:
    reply = node.get("/health/ready")
    return reply.status == 503 and (part, reason) in reasons(node)


def reply_with(node: Node, path: str, status: int, headers: dict | None = None) -> Reply:
    """The first with this status: what stands still for some seconds seems away to whoever asks it meanwhile."""

    def asked() -> Reply | None:
        reply = node.get(path, headers)
        return reply if reply.status == status else None

    return node.wait_until(asked)


def statuses(node: Node, *services: str) -> list[int]:
    with grpc.insecure_channel(node.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        asked = [health_pb2.HealthCheckRequest(service=service) for service in services]
        return [stub.Check(request, timeout=GUARD_SECONDS).status for request in asked]


def send_from(node: Node, recipient: Node, body: bytes = b"hello") -> str:
    """A message from a node that asks for a key, and its end."""
    with WebsocketStream(node, additional_headers=FULL) as stream:
        reply = node.post(SEND, {"msg": b64(body), "pubkey": recipient.pubkey}, FULL)
        assert reply.status == 200, reply.body
        stream.until(is_end(reply.json["id"]))
        return reply.json["id"]


# health


@pytest.mark.parametrize("headers", [{}, {"Host": "10.0.0.7:8882"}, {"Host": "evil.example"}, {"Host": ""}])
def test_health_asks_for_no_key_and_no_name(watched, headers):
    watched.wait_until(lambda: watched.get("/health/ready").json["status"] == "ready")
    assert watched.get("/health/live", headers).json == {"status": "live"}
    reply = reply_with(watched, "/health/ready", 200, headers)
    assert reply.json == {"status": "ready", "reasons": [], "warnings": []}
    assert reply.headers["cache-control"] == "no-store"


def test_health_is_not_for_other_web_pages_and_not_changed(watched):
    reply = watched.get("/health/ready", {"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in reply.headers
    watched.wait_until(lambda: watched.request("HEAD", "/health/ready").status == 200)
    assert watched.request("HEAD", "/health/ready").body == b""
    assert watched.post("/health/ready", {}).status == 501


def test_lnd_that_goes_away_is_told_at_every_door(network, watched, daphne):
    watched.wait_until(lambda: is_ready(watched) and is_ready(daphne))
    names = ("", "messaging.Messaging", "lightning.Lightning", "node.Node", "websocket.Websocket")
    # A service that is off serves nothing, however well the node is.
    watched.wait_until(
        lambda: statuses(watched, *names, "signing.Signing") == [*[SERVING] * len(names), NOT_SERVING]
    )
    with grpc.insecure_channel(watched.grpc) as channel:
        request = health_pb2.HealthCheckRequest(service="messaging.Messaging")
        watching = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=GUARD_SECONDS * 3)
        comes_to(watching, SERVING)
        network.command("down", node="carol")
        try:
            watched.wait_until(lambda: told_unready(watched, "lnd", "away"))
            comes_to(watching, NOT_SERVING)
            away = [NOT_SERVING, NOT_SERVING, NOT_SERVING, SERVING, SERVING]
            watched.wait_until(lambda: statuses(watched, *names) == away)
            daphne.wait_until(lambda: told_unready(daphne, "lnd", "away"))
            assert watched.get("/health/live").status == 200
            assert value(watched, "impervious_lnd_reachable", AUTHORIZED) == 0
            assert value(watched, "impervious_ready", AUTHORIZED) == 0
            assert value(watched, "impervious_health", AUTHORIZED, part="lnd") == 0
            # lnd's address is nobody's business here.
            assert str(watched.lnd.port) not in watched.get("/health/ready").body.decode()
            network.command("lock", node="carol")
            watched.wait_until(lambda: told_unready(watched, "lnd", "locked"))
        finally:
            network.command("up", node="carol")
        watched.wait_until(lambda: is_ready(watched))
        comes_to(watching, SERVING)
    watched.wait_until(lambda: statuses(watched, *names) == [SERVING] * len(names))
    daphne.wait_until(lambda: is_ready(daphne))


def comes_to(watching, status) -> None:
    assert any(told.status == status for told in watching)


def test_lnd_behind_the_chain(network, watched):
    network.command("synced", node="carol", on=False)
    try:
        watched.wait_until(lambda: told_unready(watched, "lnd", "not_synced"))
    finally:
        network.command("synced", node="carol", on=True)
    watched.wait_until(lambda: is_ready(watched))


@only_on_sqlite
def test_full_disk_is_told(watched):
    with full_disk(watched):
        watched.wait_until(lambda: told_unready(watched, "disk", "full"))
        watched.wait_until(
            lambda: statuses(watched, "messaging.Messaging", "node.Node") == [NOT_SERVING, SERVING]
        )
    watched.wait_until(lambda: is_ready(watched))


@only_on_postgres
@pytest.mark.sql
def test_database_that_is_away_is_told(watched, daphne, postgres):
    postgres.stop()
    try:
        for node in (watched, daphne):
            node.wait_until(lambda: told_unready(node, "database", "away"))
            assert node.get("/health/live").status == 200
            # What needs no database is there all the same.
            assert "process_cpu_seconds_total" in families(node, AUTHORIZED)
    finally:
        postgres.start()
    for node in (watched, daphne):
        node.wait_until(lambda: is_ready(node))


def test_redis_that_is_away_only_degrades(watched, daphne, redis):
    redis.stop()
    try:
        for node in (watched, daphne):
            node.wait_until(lambda: ("redis", "away") in reasons(node, "warnings"))
            assert reply_with(node, "/health/ready", 200).json["status"] == "degraded"
        assert value(watched, "impervious_health", AUTHORIZED, part="redis") == 0.5
    finally:
        redis.start()
    for node in (watched, daphne):
        node.wait_until(lambda: node.get("/health/ready").json["status"] == "ready")


def test_node_that_waits_for_lnd_lives_and_is_not_ready(network, watched, daphne):
    watched.stop()
    daphne.wait_until(lambda: told_unready(daphne, "runimpd", "away"))
    assert daphne.get("/health/live").status == 200
    assert daphne.get("/metrics/runimpd", AUTHORIZED).status == 503
    assert value(daphne, "impervious_health", AUTHORIZED, part="runimpd") == 0
    network.command("lock", node="carol")
    try:
        watched.launch()
        # Of the cause alone.
        watched.wait_until(lambda: _answers(watched) and reasons(watched) == {("lnd", "locked")})
        assert watched.get("/health/live").status == 200
        # By these numbers somebody is told of a wallet that is locked since a reboot.
        assert value(watched, "impervious_lnd_reachable", AUTHORIZED) == 0
        assert value(watched, "impervious_health", AUTHORIZED, part="lnd") == 0
    finally:
        network.command("up", node="carol")
        watched.wait_until(lambda: _answers(watched) and is_ready(watched))
    daphne.wait_until(lambda: is_ready(daphne))


def _answers(node: Node) -> bool:
    try:
        return bool(node.get("/health/live").status)
    except OSError:
        return False


# metrics


def sent_and_received(node: Node) -> tuple[float, float, float]:
    """Messages that this node has accepted, that were settled, that it has received."""
    labels = ({"state": "queued"}, {"state": "settled"}, {"state": "received"})
    return tuple(
        value(node, "impervious_messages_total", AUTHORIZED, service="message", **one) for one in labels
    )


def test_messages_are_counted(watched, bob):
    before = sent_and_received(watched)
    calls = {"operation": "messaging.Messaging/SendMessage", "code": "OK"}
    calls_before = value(watched, "impervious_call_seconds_count", AUTHORIZED, **calls)
    for _ in range(3):
        send_from(watched, bob)
    arriving = {send(bob, watched) for _ in range(2)}
    with WebsocketStream(watched, "?after=0&service=message", additional_headers=FULL) as stream:
        while arriving:
            arriving.discard(stream.event()["id"])
    wanted = (before[0] + 3, before[1] + 3, before[2] + 2)
    watched.wait_until(lambda: sent_and_received(watched) == wanted)
    assert value(watched, "impervious_call_seconds_count", AUTHORIZED, **calls) == calls_before + 3
    assert value(watched, "impervious_payments_total", AUTHORIZED, service="message", verdict="settled") >= 1
    # Counted one after the other, in another thread than that which answers.
    of_messages = {"headers": AUTHORIZED, "service": "message"}
    watched.wait_until(
        lambda: value(watched, "impervious_delivery_seconds_count", **of_messages) == wanted[1]
    )
    watched.wait_until(lambda: value(watched, "impervious_paid_msat_total", **of_messages) >= 3_000)
    watched.wait_until(lambda: value(watched, "impervious_received_msat_total", **of_messages) >= 2_000)
    assert value(watched, "impervious_budget_limit_msat", AUTHORIZED) == 1_000_000_000
    assert value(watched, "impervious_budget_used_msat", AUTHORIZED) >= 3_000
    assert value(watched, "impervious_accept_seconds_count", AUTHORIZED) == wanted[0]


def test_what_is_refused_is_counted_as_a_call(watched, bob):
    calls = {"operation": "messaging.Messaging/SendMessage", "code": "INVALID_ARGUMENT"}
    before = value(watched, "impervious_call_seconds_count", AUTHORIZED, **calls)
    assert watched.post(SEND, {"msg": "aGk=", "pubkey": "no key"}, FULL).status == 400
    assert watched.post(SEND, b"no JSON", FULL).status == 400
    assert value(watched, "impervious_call_seconds_count", AUTHORIZED, **calls) == before + 2


def test_what_waits_and_what_was_dropped(network, watched, bob):
    network.command("hold", node="bob")
    try:
        message_id = watched.post(SEND, {"msg": "aGk=", "pubkey": bob.pubkey}, FULL).json["id"]
        watched.wait_until(lambda: value(watched, "impervious_outbox_in_flight", AUTHORIZED) == 1)
        labels = {"service": "message", "state": "in_flight"}
        watched.wait_until(
            lambda: value(watched, "impervious_messages_unfinished", AUTHORIZED, **labels) == 1
        )
        watched.wait_until(lambda: value(watched, "impervious_reserved_msat", AUTHORIZED) >= 1_000)
    finally:
        network.command("release", node="bob")
    path = f"/v1/message/{message_id}"
    watched.wait_until(lambda: watched.get(path, FULL).json["message"]["state"] == "settled")
    dropped = {"service": "federate", "reason": "foreign"}
    before = value(watched, "impervious_records_dropped_total", AUTHORIZED, **dropped)
    network.pay("bob", "carol", {SERVICES["federate"]: b"not of ours"})
    watched.wait_until(
        lambda: value(watched, "impervious_records_dropped_total", AUTHORIZED, **dropped) == before + 1
    )


def test_clients_of_the_stream_are_counted(watched):
    metadata = [("x-api-key", KEY)]
    doors = ("websocket", "http", "grpc")

    def clients(door: str) -> float:
        return value(watched, "impervious_stream_clients", AUTHORIZED, door=door)

    watched.wait_until(lambda: [clients(door) for door in doors] == [0, 0, 0])
    with (
        WebsocketStream(watched, additional_headers=FULL),
        LineStream(watched, headers=FULL),
        grpc_stream(watched, metadata=metadata),
    ):
        watched.wait_until(lambda: [clients(door) for door in doors] == [1, 1, 1])
    watched.wait_until(lambda: [clients(door) for door in doors] == [0, 0, 0])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {SENDER}"}, 403),
        ({"Authorization": f"Bearer {READER}"}, 200),
        ({"Authorization": f"Bearer {READER}", "Host": "evil.example"}, 403),
        ({"Authorization": f"Bearer {READER}", "Origin": "http://evil.example"}, 403),
    ],
)
def test_metrics_are_for_keys_that_read(watched, daphne, headers, status):
    for node in (watched, daphne):
        reply = node.get("/metrics", headers)
        assert reply.status == status
        assert (b"impervious_" in reply.body) == (status == 200)


def test_metrics_without_keys_and_in_the_newer_format(alice):
    assert alice.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    reply = alice.get("/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")


def test_daphne_tells_of_itself_and_of_the_database(watched, daphne):
    # A database or a runimpd that does not answer for some seconds is told as away.
    daphne.wait_until(lambda: "impervious_database_bytes" in families(daphne, AUTHORIZED))
    daphne.wait_until(lambda: value(daphne, "impervious_health", AUTHORIZED, part="runimpd") == 1)
    beside, engine = families(daphne, AUTHORIZED), families(watched, AUTHORIZED)
    processes = [one["impervious_build_info"].samples[0].labels["process"] for one in (beside, engine)]
    assert processes == ["daphne", "runimpd"]
    for name in ("impervious_messages_unfinished", "impervious_vpn_leases", "impervious_database_bytes"):
        assert beside[name].samples
    # What only the engine can know.
    assert (
        not {"impervious_lnd_reachable", "impervious_messages_total", "impervious_outbox_waiting"}
        & beside.keys()
    )
    assert beside["process_resident_memory_bytes"].samples[0].value > 0


def test_runimpd_is_scraped_through_a_daphne_too(watched, daphne):
    for node in (watched, daphne):
        reply = reply_with(node, "/metrics/runimpd", 200, AUTHORIZED)
        assert reply.headers["content-type"].startswith("text/plain")
        assert b'process="runimpd"' in reply.body
        assert b"impervious_lnd_reachable 1.0" in reply.body
        assert node.get("/metrics/runimpd").status == 401
        assert node.get("/metrics/runimpd", {"Authorization": f"Bearer {SENDER}"}).status == 403
    with grpc.insecure_channel(watched.grpc) as channel:
        scrape = channel.unary_unary("/monitoring.Monitoring/Scrape")
        for metadata, code in (((), "UNAUTHENTICATED"), ((("x-api-key", SENDER),), "PERMISSION_DENIED")):
            with pytest.raises(grpc.RpcError) as refused:
                scrape(b"", metadata=metadata, timeout=GUARD_SECONDS)
            assert refused.value.code().name == code


def test_labels_name_nobody(watched, bob):
    send_from(watched, bob)
    page = watched.get("/metrics", AUTHORIZED).body.decode()
    assert bob.pubkey not in page
    assert watched.pubkey not in page


# the log


def lines_with(node: Node, text: str) -> list[dict]:
    return [json.loads(line) for line in node.log.splitlines() if text in line]


def test_one_id_leads_through_the_log_of_both_nodes(watched, bob):
    body = os.urandom(16)
    message_id = send_from(watched, bob, body)
    # The stream may tell the end before the log does.
    watched.wait_until(lambda: any(line["message"] == "delivery" for line in lines_with(watched, message_id)))
    # The audit log's line comes when the call is answered, before or after the payment's.
    lines = [line for line in lines_with(watched, message_id) if line["part"] != "audit"]
    assert [line["message"] for line in lines] == [
        "accepted",
        "attempts started",
        "attempt ended",
        "delivery",
    ]
    first, _, ended, last = lines
    assert first["operation"] == "messaging.Messaging/SendMessage"
    assert (ended["verdict"], last["state"]) == ("settled", "settled")
    assert (last["service"], last["peer"], last["attempts"]) == ("message", bob.pubkey, 1)
    assert [line["level"] for line in lines] == ["DEBUG"] * 3 + ["INFO"]
    bob.wait_until(lambda: lines_with(bob, message_id))
    assert [line["message"] for line in lines_with(bob, message_id)] == ["received and handled"]
    for secret in (b64(body), body.hex(), KEY, READER):
        assert secret not in watched.log
        assert secret not in bob.log


def test_parts_of_the_log_have_levels_of_their_own(watched, bob, network):
    message_id = send(bob, watched, os.urandom(3_000))
    watched.wait_until(
        lambda: any(one["message"] == "received and handled" for one in lines_with(watched, message_id))
    )
    parts = [line for line in lines_with(watched, message_id) if line["message"] == "parts received"]
    assert {(line["part"], line["level"]) for line in parts} == {("messaging.inbox", "DEBUG")}
    # lnd went away above, and this part tells errors only.
    assert "invoice stream" not in watched.log
