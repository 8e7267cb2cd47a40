"""Daphnes of their own beside runimpd: they read, forward everything else, and are woken with and without Redis."""

import json
import re

import pytest

from tests.support.daphnes import AUTHORIZED, KEY, Daphne
from tests.support.nodes import Node
from tests.support.servers import RedisServer
from tests.support.streams import WebsocketStream, data_of, send

pytestmark = pytest.mark.sql


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """Of these tests alone: what is told through it reaches all nodes on it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module", params=["redis", "poll"])
def pair(request, network, redis, tmp_path_factory):
    """An engine without HTTP, and two daphnes beside it."""
    extra = {"redis": {"url": redis.url}} if request.param == "redis" else {}
    engine = Node(
        network.nodes["carol"],
        tmp_path_factory.mktemp(request.param),
        extra=extra,
        environ={"IMPD_SERVER__API_KEY": KEY},
        arguments=("--no-http",),
    )
    with engine, Daphne(engine) as first, Daphne(engine) as second:
        yield engine, first, second


def test_streams_of_both_daphnes_tell_what_arrives(pair, bob):
    _, first, second = pair
    with (
        WebsocketStream(first, additional_headers=AUTHORIZED) as one,
        WebsocketStream(second, additional_headers=AUTHORIZED) as other,
    ):
        message_id = send(bob, first, b"to both")
        for stream in (one, other):
            event = stream.until(lambda event: event["id"] == message_id)[-1]
            assert data_of(event) == b"to both"


def test_the_engine_names_no_address_at_which_nobody_answers(pair):
    engine, *_ = pair
    (started,) = [
        line for line in map(json.loads, engine.log.splitlines()) if line["message"] == "IMPD started!"
    ]
    assert started["grpc"] == engine.grpc
    assert "http" not in started
    assert "/admin/" not in engine.log


def test_every_line_of_all_logs_is_json_and_tells_no_query(pair):
    """From the first on."""
    engine, first, second = pair
    secret = "a-secret-in-an-address"
    assert first.get(f"/v1/messages?limit=1&key={secret}", AUTHORIZED).status == 400
    with WebsocketStream(first, "?after=0", additional_headers=AUTHORIZED):
        pass
    first.wait_until(lambda: "websocket closed" in first.log)
    for node in pair:
        told = [json.loads(line) for line in node.log.splitlines()]
        times = [line["time"] for line in told]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)
    assert secret not in engine.log + first.log + second.log
    paths = {line["path"] for line in map(json.loads, first.log.splitlines()) if "path" in line}
    assert {"/v1/messages", "/v1/subscribe"} <= paths


def test_calls_are_forwarded_with_their_credentials(pair, bob):
    engine, first, second = pair
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
    assert first.post("/v1/message/send", body).status == 401
    message_id = first.post("/v1/message/send", body, AUTHORIZED).json["id"]
    assert second.get(f"/v1/message/{message_id}", AUTHORIZED).json["message"]["pubkey"] == bob.pubkey
    assert first.get("/v1/node", AUTHORIZED).json["pubkey"] == engine.pubkey
    own = first.post("/v1/message/send", body | {"pubkey": engine.pubkey}, AUTHORIZED)
    assert (own.status, own.json["message"]) == (400, "pubkey: is this node's own key")


def test_headers_that_grpc_does_not_take_as_text(pair, bob):
    """They mean the same as without a daphne in between."""
    _, first, second = pair
    body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
    for key in ("caf\xe9", "a\tb"):
        ids = [
            daphne.post("/v1/message/send", body, AUTHORIZED | {"Idempotency-Key": key}).json["id"]
            for daphne in (first, second, first)
        ]
        assert len(set(ids)) == 1
    refused = first.post("/v1/message/send", body, AUTHORIZED | {"Idempotency-Key": "k" * 300})
    assert (refused.status, refused.json["message"].partition(":")[0]) == (400, "Idempotency-Key")
    assert first.post("/v1/message/send", body, AUTHORIZED | {"X-API-KEY": "\xff"}).status == 200
    assert "unexpected error" not in first.log + second.log


def test_without_the_engine_reads_go_on_and_calls_are_unavailable(pair, bob):
    engine, first, _ = pair
    engine.kill()
    try:
        body = {"msg": "aGVsbG8=", "pubkey": bob.pubkey}
        reply = first.post("/v1/message/send", body, AUTHORIZED)
        assert (reply.status, reply.json["code"]) == (503, 14)
        assert first.get("/v1/messages", AUTHORIZED).status == 200
    finally:
        engine.start()
    first.wait_until(lambda: first.post("/v1/message/send", body, AUTHORIZED).status == 200)
