"""Federations between whole nodes: how they come about, are renewed and end; and broadcasts to their members."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from protos import federate_pb2, federate_pb2_grpc
from tests.support.commands import shell
from tests.support.databases import execute
from tests.support.federations import LIST, TTL_SECONDS, federate, listed, row, running, state
from tests.support.networks import Network, simulated_network
from tests.support.nodes import Node
from tests.support.strangers import STRANGER
from tests.support.streams import WebsocketStream, b64, data_of, is_end

REQUEST, LEAVE, BROADCAST = "/v1/federate/request", "/v1/federate/leave", "/v1/message/broadcast"


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Iterator[Network]:
    with simulated_network(tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.fixture(scope="module")
def alice(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["alice"], tmp_path_factory.mktemp("alice")) as node:
        yield node


@pytest.fixture
def pair(network, tmp_path) -> Iterator[list[Node]]:
    """bob and carol, who know nothing of each other."""
    with running(network, tmp_path, bob=federate("Bob"), carol=federate("Carol")) as nodes:
        yield nodes


def ask(node: Node, other: Node, headers: dict | None = None) -> str:
    reply = node.post(REQUEST, {"pubkey": other.pubkey}, headers)
    assert reply.status == 200, reply.body
    return reply.json["id"]


def hold_each_other(one: Node, other: Node) -> bool:
    mine, theirs = row(one, other), row(other, one)
    return mine["state"] == theirs["state"] == "member" and mine["expiresAt"] == theirs["expiresAt"]


def join(one: Node, other: Node) -> str:
    request_id = ask(one, other)
    one.wait_until(lambda: hold_each_other(one, other))
    return request_id


def told(event: dict) -> dict:
    return json.loads(data_of(event))


def of_type(type: str):
    return lambda event: event["serviceType"] == "federate" and told(event)["type"] == type


def federate_events(node: Node) -> list[dict]:
    """All that the log has told so far."""
    with WebsocketStream(node, "?after=0") as stream:
        marker = node.post("/v1/message/send", {"msg": "bWFyaw==", "pubkey": STRANGER}).json["id"]
        events = stream.until(is_end(marker))
    return [event for event in events if event["serviceType"] == "federate"]


def mark(node: Node, other: Node) -> None:
    change = f"update_or_create(pubkey='{other.pubkey}', defaults={{'marked': True}})"
    shell(node, f"from messaging.models import Peer; Peer.objects.{change}")


def test_request_makes_both_members_and_both_streams_tell(pair):
    bob, carol = pair
    began = int(time.time())
    with WebsocketStream(bob) as at_bob, WebsocketStream(carol) as at_carol:
        request_id = ask(bob, carol)
        # The first event under the call's id is the answer: this node has told its caller of the request.
        accepted = at_bob.until(lambda event: event["serviceType"] == "federate")[-1]
        received, accepting = (at_carol.until(of_type(type))[-1] for type in ("request", "accept"))
    assert [event["id"] for event in (accepted, received, accepting)] == [request_id] * 3
    assert accepted["replyToId"] == request_id
    assert (told(accepted)["type"], accepted["fromPubkey"]) == ("accept", carol.pubkey)
    assert (received["fromPubkey"], accepting["fromPubkey"]) == (bob.pubkey, "")
    assert (told(accepted)["pubkey"], told(accepted)["imp_id"]) == (carol.pubkey, "Carol")
    assert (told(received)["pubkey"], told(received)["imp_id"]) == (bob.pubkey, "Bob")
    expires_at = told(accepted)["expires_at"]
    assert began + TTL_SECONDS <= expires_at == told(accepting)["expires_at"] <= time.time() + TTL_SECONDS
    assert hold_each_other(bob, carol)
    most, member, least = expires_at - time.time(), listed(bob)[0], expires_at - time.time()
    assert (member["pubkey"], member["impId"], member["state"]) == (carol.pubkey, "Carol", "member")
    assert least - 1 <= int(member["secondsLeft"]) <= most + 1
    services = {service["serviceType"]: service["state"] for service in bob.get("/v1/node").json["services"]}
    assert services["federate"] == "running"


def test_by_grpc(pair):
    bob, carol = pair
    with grpc.insecure_channel(bob.grpc) as channel:
        stub = federate_pb2_grpc.FederateStub(channel)
        assert stub.RequestFederate(federate_pb2.RequestFederateRequest(pubkey=carol.pubkey)).id
        bob.wait_until(lambda: hold_each_other(bob, carol))
        assert stub.ListFederations(federate_pb2.ListFederationsRequest()).federations[0].imp_id == "Carol"
        assert stub.LeaveFederation(federate_pb2.LeaveFederationRequest(pubkey=carol.pubkey)).id
    bob.wait_until(lambda: state(carol, bob) == "left")


def test_leaving_ends_it_on_both_sides(pair):
    bob, carol = pair
    join(bob, carol)
    with WebsocketStream(bob) as at_bob:
        leave_id = carol.post(LEAVE, {"pubkey": bob.pubkey}).json["id"]
        there = at_bob.until(of_type("leave"))[-1]
    assert (there["id"], there["fromPubkey"]) == (leave_id, carol.pubkey)
    assert leave_id not in {event["id"] for event in federate_events(carol)}
    assert (state(bob, carol), state(carol, bob), listed(bob), listed(carol)) == ("left", "left", [], [])
    assert row(bob, carol)["cause"] == "left by the other node"
    again = carol.post(LEAVE, {"pubkey": bob.pubkey})
    assert (again.status, again.json["code"]) == (400, 9)
    assert again.json["message"].startswith("pubkey: ")
    join(carol, bob)


def test_what_cannot_be_asked(pair):
    bob, carol = pair
    for path in (REQUEST, LEAVE):
        own = bob.post(path, {"pubkey": bob.pubkey})
        assert (own.json["code"], own.json["message"]) == (3, "pubkey: is this node's own key")
        assert bob.post(path, {}).json["message"] == "pubkey: is missing"
        assert bob.post(path, {"pubkey": "02ab"}).json["code"] == 3
    left = bob.post(LEAVE, {"pubkey": carol.pubkey})
    assert left.json["code"] == 9
    assert left.json["message"].startswith("pubkey: is not a node")
    assert bob.get(LIST + "?state=friends").json["message"].startswith("state: ")
    none = bob.post(BROADCAST, {"msg": "aGVsbG8="})
    assert none.json["code"] == 9


def test_asking_again_refreshes_and_a_smaller_ttl_holds(network, pair):
    bob, carol = pair
    join(bob, carol)
    first = row(bob, carol)
    bob.stop()
    text = bob.config_path.read_text()
    bob.config_path.write_text(text.replace(f"ttl: {TTL_SECONDS}", "ttl: 600"))
    bob.start()
    began = time.time()
    ask(bob, carol)
    bob.wait_until(lambda: row(bob, carol)["expiresAt"] != first["expiresAt"])
    bob.wait_until(lambda: hold_each_other(bob, carol))
    seconds_left = int(row(carol, bob)["secondsLeft"])
    since_then = time.time() - began
    assert 600 - since_then - 2 <= seconds_left <= 600
    assert row(bob, carol)["since"] == first["since"]
    assert len(listed(bob, "?state=all")) == 1


def test_both_ask_at_once(pair):
    bob, carol = pair
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            ids = list(pool.map(lambda two: ask(*two), [(bob, carol), (carol, bob)]))
        for node, message_id in zip((bob, carol), ids, strict=True):
            assert node.ended(message_id)["state"] == "settled"
        for node in (bob, carol):
            node.wait_until(lambda: accepted_ids(node) >= set(ids))
        assert hold_each_other(bob, carol)


def accepted_ids(node: Node) -> set[str]:
    return {event["id"] for event in federate_events(node) if told(event)["type"] == "accept"}


def test_idempotency_key(pair):
    bob, carol = pair
    key = {"Idempotency-Key": "once"}
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: ask(bob, carol, key), range(16)))
    assert len(ids) == 1
    bob.wait_until(lambda: hold_each_other(bob, carol))
    left = [bob.post(LEAVE, {"pubkey": carol.pubkey}, {"Idempotency-Key": "leave"}).json for _ in range(2)]
    assert left[0] == left[1]
    assert "id" in left[0]
    assert {ask(bob, carol, key)} == ids
    assert state(bob, carol) == "left"
    other = bob.post(REQUEST, {"pubkey": STRANGER}, key)
    assert (other.status, other.json["code"]) == (409, 6)


def test_known_and_refused(network, tmp_path):
    with running(network, tmp_path, bob=federate("Bob"), carol=federate("Carol", accept="known")) as (
        bob,
        carol,
    ):
        with WebsocketStream(bob) as at_bob:
            request_id = ask(bob, carol)
            refused = at_bob.until(of_type("refuse"))[-1]
        assert (refused["id"], told(refused)["reason"]) == (request_id, "not known to this node")
        assert (state(bob, carol), state(carol, bob)) == ("refused", "refused")
        mark(carol, bob)
        join(bob, carol)


def test_whom_we_ask_need_not_be_known(network, tmp_path):
    with running(network, tmp_path, bob=federate("Bob"), carol=federate("Carol", accept="known")) as (
        bob,
        carol,
    ):
        join(carol, bob)


def test_manual_waits_for_the_admin(network, tmp_path):
    with running(network, tmp_path, bob=federate("Bob"), carol=federate("Carol", accept="manual")) as (
        bob,
        carol,
    ):
        ask(bob, carol)
        carol.wait_until(lambda: state(carol, bob) == "received")
        assert state(bob, carol) == "requested"
        wish(carol, bob, "refuse")
        bob.wait_until(lambda: state(bob, carol) == "refused")
        assert state(carol, bob) == "refused"
        request_id = ask(bob, carol)
        carol.wait_until(lambda: state(carol, bob) == "received")
        with WebsocketStream(bob) as at_bob:
            wish(carol, bob, "accept")
            assert at_bob.until(of_type("accept"))[-1]["id"] == request_id
        bob.wait_until(lambda: hold_each_other(bob, carol))
        wish(carol, bob, "accept")
        outcomes = execute(carol.database_url, "SELECT outcome FROM federation_wish ORDER BY id")
        assert "no request that waits" in outcomes[-1][0]
        wish(carol, bob, "leave")
        bob.wait_until(lambda: state(bob, carol) == state(carol, bob) == "left")


def wish(node: Node, other: Node, action: str) -> None:
    """What the admin's actions do, and the wait until the node has seen to it."""
    values = f"pubkey='{other.pubkey}', action='{action}', asked_by='me'"
    shell(node, f"from federation.models import Wish; Wish.objects.create({values})")
    node.wait_until(
        lambda: not execute(node.database_url, "SELECT id FROM federation_wish WHERE done_at IS NULL")
    )


def test_full(network, alice, tmp_path):
    with running(network, tmp_path, carol=federate("Carol", max_members=1), bob=federate("Bob")) as (
        carol,
        bob,
    ):
        join(carol, bob)
        # It says so to those that it knows, and nothing to strangers.
        assert alice.ended(ask(alice, carol))["state"] == "settled"
        carol.wait_until(
            lambda: 'reason="full",service="federate"} 1.0' in carol.get("/metrics").body.decode()
        )
        assert (state(alice, carol), state(carol, alice)) == ("requested", "")
        mark(carol, alice)
        with WebsocketStream(alice) as at_alice:
            request_id = ask(alice, carol)
            refused = at_alice.until(of_type("refuse"))[-1]
        assert (refused["id"], told(refused)["reason"]) == (request_id, "full")
        asked = carol.post(REQUEST, {"pubkey": alice.pubkey})
        assert asked.json["code"] == 9
        assert "federate.max_members" in asked.json["message"]
        join(bob, carol)


def end_in(seconds: int, *nodes: Node) -> int:
    """What they have agreed ends so soon, at both in the same second. A slow machine might not even agree within a ttl of
    so much.
    """
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    for node in nodes:
        execute(
            node.database_url,
            f"UPDATE federation_federation SET expires_at = '{end:%Y-%m-%d %H:%M:%S+00:00}'",
        )
    return int(end.timestamp())


def test_ends_by_time(pair):
    bob, carol = pair
    request_id = join(bob, carol)
    with WebsocketStream(bob) as at_bob, WebsocketStream(carol) as at_carol:
        end = end_in(3, bob, carol)
        expired = [stream.until(of_type("expired"))[-1] for stream in (at_bob, at_carol)]
    assert time.time() >= end
    assert [event["id"] for event in expired] == [request_id] * 2
    assert told(expired[0])["expires_at"] == told(expired[1])["expires_at"] == end
    assert (state(bob, carol), state(carol, bob), listed(bob), listed(carol)) == (
        "expired",
        "expired",
        [],
        [],
    )


def test_ends_by_time_while_it_is_off(pair):
    bob, carol = pair
    join(carol, bob)
    carol.kill()
    end_in(1, bob, carol)
    bob.wait_until(lambda: state(bob, carol) == "expired")
    carol.start()
    carol.wait_until(lambda: state(carol, bob) == "expired")
    assert listed(carol) == []
    assert [told(event)["type"] for event in federate_events(carol)].count("expired") == 1


def test_request_that_is_not_delivered_ends_with_the_cause(pair):
    bob, _ = pair
    request_id = bob.post(REQUEST, {"pubkey": STRANGER}).json["id"]
    assert bob.ended(request_id)["state"] == "failed"
    found = listed(bob, f"?state=expired&pubkey={STRANGER}")[0]
    assert found["cause"].startswith("the request was not delivered: ")
    assert "does not know this node" in found["cause"]


def test_kill_9_of_either_side(network, pair):
    bob, carol = pair
    network.command("latency", ms=200)
    try:
        for killed in (bob, carol, bob, carol):
            ask(bob, carol)
            killed.kill()
            killed.start()
            bob.wait_until(lambda: hold_each_other(bob, carol) and not waiting(bob) and not waiting(carol))
            carol.post(LEAVE, {"pubkey": bob.pubkey})
            killed.kill()
            killed.start()
            bob.wait_until(lambda: state(bob, carol) == state(carol, bob) == "left")
    finally:
        network.command("latency", ms=0)
    # What a node's own calls asked for is no event there.
    for node, types in ((bob, ["accept", "leave"]), (carol, ["request", "accept"])):
        assert [told(event)["type"] for event in federate_events(node)] == types * 4


def waiting(node: Node) -> list[dict]:
    messages = node.get("/v1/messages?service=federate&direction=out&limit=1000").json["messages"]
    return [message for message in messages if message["state"] not in ("settled", "failed")]


def test_broadcast_reaches_every_member_once(network, alice, tmp_path):
    with (
        running(network, tmp_path, bob=federate("Bob"), carol=federate("Carol")) as (bob, carol),
        ExitStack() as left,
    ):
        join(bob, carol)
        join(bob, alice)
        left.callback(lambda: bob.post(LEAVE, {"pubkey": alice.pubkey}))
        key = {"Idempotency-Key": "to all"}
        body = {"msg": b64(b"to all of you"), "amount": "2", "expiresIn": "600"}
        with WebsocketStream(carol) as at_carol, WebsocketStream(alice) as at_alice:
            sent = bob.post(BROADCAST, body, key).json["messages"]
            ids = {message["pubkey"]: message["id"] for message in sent}
            assert set(ids) == {carol.pubkey, alice.pubkey}
            assert len(set(ids.values())) == 2
            for stream, pubkey in ((at_carol, carol.pubkey), (at_alice, alice.pubkey)):
                event = stream.until(lambda event: event["id"] == ids[pubkey])[-1]
                assert (event["serviceType"], data_of(event), event["amount"]) == (
                    "message",
                    b"to all of you",
                    "2",
                )
        bob.kill()
        bob.start()
        assert bob.post(BROADCAST, body, key).json["messages"] == sent
        assert bob.post(BROADCAST, body | {"amount": "3"}, key).json["code"] == 6
        messages = bob.get("/v1/messages?service=message&direction=out").json["messages"]
        assert {message["id"] for message in messages} == set(ids.values())


def test_broadcast_beyond_the_budget_sends_nothing(network, alice, tmp_path):
    extra = federate("Bob") | {"lightning": {"daily_budget_sat": 50, "max_fee_sat": 1, "max_fee_percent": 0}}
    with running(network, tmp_path, bob=extra, carol=federate("Carol")) as (bob, carol), ExitStack() as left:
        join(bob, carol)
        join(bob, alice)
        left.callback(lambda: bob.post(LEAVE, {"pubkey": alice.pubkey}))
        reply = bob.post(BROADCAST, {"msg": "aGVsbG8=", "amount": 30})
        assert reply.json["code"] == 8
        assert "lightning.daily_budget_sat" in reply.json["message"]
        assert bob.get("/v1/messages?service=message&direction=out").json["messages"] == []
        assert len(bob.post(BROADCAST, {"msg": "aGVsbG8=", "amount": 10}).json["messages"]) == 2


def test_service_that_is_off(network, tmp_path):
    only_messages = [{"service_type": "message", "active": True, "custom_record_number": 400000}]
    off = federate("Carol") | {"service_list": only_messages}
    with running(network, tmp_path, bob=federate("Bob", max_members=1), carol=off) as (bob, carol):
        for path in (REQUEST, LEAVE, BROADCAST):
            reply = carol.post(path, {"pubkey": bob.pubkey, "msg": "aGk="})
            assert (reply.json["code"], reply.json["message"]) == (
                9,
                "the service federate is off on this node",
            )
        assert bob.ended(ask(bob, carol))["state"] == "settled"
        assert state(bob, carol) == "requested"
        assert listed(carol, "?state=all") == []
        # Its request holds a place, until it is taken back.
        assert "federate.max_members" in bob.post(REQUEST, {"pubkey": STRANGER}).json["message"]
        assert bob.ended(bob.post(LEAVE, {"pubkey": carol.pubkey}).json["id"])["state"] == "settled"
        assert federate_events(bob) == []
        assert (state(bob, carol), row(bob, carol)["cause"]) == (
            "left",
            "the request was taken back by this node",
        )
        assert ask(bob, carol)
