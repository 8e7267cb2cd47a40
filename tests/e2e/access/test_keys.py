"""API keys: made and revoked while the node runs, the same at all doors, with scopes, budgets and rates."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from protos import messaging_pb2, node_pb2, node_pb2_grpc
from tests.support.commands import command
from tests.support.daphnes import Daphne
from tests.support.databases import execute, only_on_sqlite
from tests.support.keys import audit_rows, bearer, end_key, keys_command, make_key, store_key
from tests.support.minutes import within_a_minute
from tests.support.nodes import Node
from tests.support.streams import LineStream, WebsocketStream, grpc_stream, messaging, send, settle_down

pytestmark = pytest.mark.sql

CONFIGURED = "configured-key-of-enough-characters"
LIMITS = {"max_fee_sat": 4, "max_fee_percent": 0}
HELLO = {"msg": "aGVsbG8="}


class KeyedDaphne(Daphne):
    def _answers(self) -> bool:
        try:
            return self.get("/v1/nothing").status == 404
        except OSError:
            return False


@pytest.fixture(scope="module")
def opened(network, tmp_path_factory):
    """carol's node, without any key at first."""
    with Node(network.nodes["carol"], tmp_path_factory.mktemp("opened"), extra={"lightning": LIMITS}) as node:
        yield node


@pytest.fixture(scope="module")
def guarded(network, tmp_path_factory):
    """A node with a key in its configuration; its lnd is carol's too, and nobody writes to it."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "app.key").write_text(CONFIGURED)
    entry = {"name": "configured", "key_file": "app.key", "scopes": ["read", "send"], "budget_sat": 12}
    extra = {"server": {"api_keys": [entry]}, "lightning": LIMITS}
    with Node(network.nodes["carol"], directory, extra=extra) as node:
        yield node


def grpc_code(node: Node, key: str) -> grpc.RpcError:
    with grpc.insecure_channel(node.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        node_pb2_grpc.NodeStub(channel).GetInfo(
            node_pb2.GetInfoRequest(), metadata=(("authorization", f"Bearer {key}"),)
        )
    return refused.value


def websocket_status(node: Node, key: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        WebsocketStream(node, additional_headers=bearer(key))
    return refused.value.response.status_code


def closed(stream: WebsocketStream) -> ConnectionClosed:
    with pytest.raises(ConnectionClosed) as end:
        while True:
            stream.text()
    return end.value


@contextmanager
def three_streams(node: Node, key: str):
    metadata = (("x-api-key", key),)
    with (
        WebsocketStream(node, additional_headers=bearer(key)) as websocket,
        LineStream(node, headers=bearer(key)) as lines,
        grpc_stream(node, metadata=metadata) as call,
    ):
        yield websocket, lines, call


def all_ended(websocket, lines, call, word: str) -> None:
    assert closed(websocket).rcvd.code == 1008
    last = lines.text()
    while '"result"' in last:
        last = lines.text()
    assert json.loads(last)["error"]["code"] == 16
    assert word in last
    assert lines.text() == ""
    with pytest.raises(grpc.RpcError) as end:
        list(call)
    assert end.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert word in end.value.details()


def test_the_first_key_closes_an_open_node(opened, bob):
    with WebsocketStream(opened) as stream:
        assert opened.get("/v1/node").status == 200
        made = keys_command(opened, "make", "--name", "app", "--scopes", "read,send", "--expires", "90d")
        key = made.stdout.strip()
        # The owner's own commands need it from now on, and are told how.
        assert "./impervious status" in made.stderr
        assert closed(stream).rcvd.code == 1008
    assert opened.get("/v1/node").status == 401
    assert opened.get("/v1/node", bearer(key)).status == 200
    assert "--key-file" in command(opened, "status").err
    with three_streams(opened, key) as streams:
        message_id = send(bob, opened)
        for stream in streams[:2]:
            stream.of(message_id)
        assert message_id in (event.id for event in streams[2])
    listed = json.loads(keys_command(opened, "list", "--json").stdout)
    assert [(row["name"], row["scopes"], row["state"], row["from"]) for row in listed] == [
        ("app", "read,send", "valid", "database")
    ]
    again = keys_command(opened, "make", "--name", "app", "--scopes", "read")
    assert again.returncode != 0
    assert "--name: 'app' is the name of another key" in again.stderr
    second = keys_command(opened, "make", "--name", "second", "--scopes", "read")
    assert "./impervious" not in second.stderr
    end_key(opened, "second", "revoked_at")
    end_key(opened, "app", "revoked_at")
    opened.wait_until(lambda: opened.get("/v1/node", bearer(key)).status == 401)
    # What was closed once is not opened by a key that ends.
    assert opened.get("/v1/node").status == 401


@only_on_sqlite
def test_a_key_is_nowhere_but_with_who_has_it(guarded):
    key = make_key(guarded, "secret", "--scopes", "read,admin")
    guarded.wait_until(lambda: guarded.get("/v1/node", bearer(key)).status == 200)
    files = [path for path in Path(guarded.directory).iterdir() if path.is_file()]
    assert len(files) >= 4
    for path in files:
        if path.name != "app.key":
            content = path.read_bytes()
            assert key.encode() not in content, path
            assert CONFIGURED.encode() not in content, path


@pytest.mark.parametrize(("column", "word"), [("revoked_at", "was revoked"), ("expires_at", "expired at")])
def test_streams_end_with_their_key(guarded, column, word):
    name = f"ends by {column}"
    key, other = store_key(guarded, name, ["read"]), store_key(guarded, f"not {column}", ["read"])
    with (
        three_streams(guarded, key) as streams,
        WebsocketStream(guarded, additional_headers=bearer(other)) as kept,
    ):
        end_key(guarded, name, column)
        all_ended(*streams, word)
        message_id = guarded.post("/v1/message/send", HELLO | {"pubkey": "02" * 33}, bearer(CONFIGURED)).json[
            "id"
        ]
        kept.until(lambda event: event["id"] == message_id)
    assert guarded.get("/v1/node", bearer(key)).status == websocket_status(guarded, key) == 401
    assert grpc_code(guarded, key).code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_scope_that_was_taken_away_ends_streams(guarded):
    key = store_key(guarded, "loses", ["read", "send"])
    with WebsocketStream(guarded, additional_headers=bearer(key)) as stream:
        execute_scopes(guarded, "loses", ["send"])
        assert closed(stream).rcvd.code == 1008
    assert guarded.get("/v1/node", bearer(key)).status == 403


def execute_scopes(node: Node, name: str, scopes: list[str]) -> None:
    execute(
        node.database_url, f"UPDATE nodeapi_apikey SET scopes = '{json.dumps(scopes)}' WHERE name = '{name}'"
    )


def test_scopes_at_all_doors(guarded, bob):
    sender = store_key(guarded, "sender", ["send"])
    refused = guarded.get("/v1/node", bearer(sender))
    assert (refused.status, refused.json["code"]) == (403, 7)
    assert "'read'" in refused.json["message"]
    assert grpc_code(guarded, sender).code() is grpc.StatusCode.PERMISSION_DENIED
    assert websocket_status(guarded, sender) == 403
    assert guarded.get("/v1/subscribe", bearer(sender)).status == 403
    assert guarded.post("/v1/message/send", HELLO | {"pubkey": bob.pubkey}, bearer(sender)).status == 200
    unpaid = guarded.post("/v1/lightning/payinvoice", {"invoice": "lnsb1"}, bearer(sender))
    assert (unpaid.status, unpaid.json["code"]) == (403, 7)
    # Who may is asked before the body is looked at.
    assert guarded.post("/v1/message/send", b"{").status == 401


def test_a_rate_is_the_same_at_all_doors(guarded):
    def attempt(number: int) -> None:
        key = store_key(guarded, f"often {number}", ["read"], calls_per_minute=3)
        assert [guarded.get("/v1/node", bearer(key)).status for _ in range(3)] == [200] * 3
        refused = guarded.get("/v1/node", bearer(key))
        assert (refused.status, refused.json["code"]) == (429, 8)
        assert "3 calls a minute" in refused.json["message"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        over_grpc = grpc_code(guarded, key)
        assert over_grpc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 1 <= int(dict(over_grpc.trailing_metadata())["retry-after"]) <= 60
        assert websocket_status(guarded, key) == 429

    within_a_minute(attempt)


def test_a_budget_is_exact(guarded, bob):
    """To bob, who is a channel peer, nothing is paid for the way; 4 sat are reserved for it."""
    key, other = (
        store_key(guarded, "spender", ["send", "read"], budget_sat=61),
        store_key(guarded, "other", ["send"]),
    )
    once = {"Idempotency-Key": "of the spender"} | bearer(key)

    def ask(amount: int, headers: dict):
        return guarded.post("/v1/message/send", HELLO | {"pubkey": bob.pubkey, "amount": amount}, headers)

    assert ask(1, once).status == 200
    wait_for_ends(guarded, "spender")
    # Each reserves 20, and all are reserved before any is settled, or some are: never more than three at once.
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: ask(16, bearer(key)), range(12)))
    accepted = [reply for reply in replies if reply.status == 200]
    assert len(accepted) == 3
    assert {reply.status for reply in replies} == {200, 429}
    wait_for_ends(guarded, "spender")
    guarded.kill()
    guarded.start()
    refused = ask(9, bearer(key))
    assert (refused.status, refused.json["code"]) == (429, 8)
    assert "'spender'" in refused.json["message"]
    assert "12 of 61 sat are left" in refused.json["message"]
    assert 80_000 <= int(refused.headers["retry-after"]) <= 86_400
    assert ask(1, once).status == 200
    assert ask(8, bearer(key)).status == 200
    assert ask(16, bearer(other)).status == 200
    never = ask(100, bearer(key))
    assert "more than the whole" in never.json["message"]
    assert "retry-after" not in never.headers
    with messaging(guarded) as stub, pytest.raises(grpc.RpcError) as over_grpc:
        request = messaging_pb2.SendMessageRequest(msg=b"hello", pubkey=bob.pubkey, amount=20)
        stub.SendMessage(request, metadata=(("x-api-key", key),))
    assert over_grpc.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(over_grpc.value.trailing_metadata())["retry-after"]) > 0
    # What is under way would meet the failure that the next test asks for.
    for name in ("spender", "other"):
        wait_for_ends(guarded, name)


def wait_for_ends(node: Node, name: str) -> None:
    def all_settled() -> bool:
        ids = {row[6] for row in audit_rows(node, f"caller = '{name}' AND spends")}
        found = node.get("/v1/messages?direction=out&limit=1000", bearer(CONFIGURED)).json["messages"]
        states = [
            message["state"] for message in found if message["id"] in {dashed(identity) for identity in ids}
        ]
        return len(states) == len(ids) and set(states) == {"settled"}

    node.wait_until(all_settled)


def dashed(identity) -> str:
    """SQLite has 32 digits, PostgreSQL a UUID."""
    text = str(identity).replace("-", "")
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def test_a_budget_counts_invoices_and_what_failed_costs_nothing(guarded, alice, bob, network):
    key = store_key(guarded, "payer", ["pay"], budget_sat=30)
    other = store_key(guarded, "payer too", ["pay"], budget_sat=30)

    def pay(invoice: str, headers: dict):
        return guarded.post("/v1/lightning/payinvoice", {"invoice": invoice, "timeout": 60}, headers)

    def invoice(amount: int) -> str:
        return bob.post("/v1/lightning/generateinvoice", {"amount": amount}).json["invoice"]

    settle_down(alice, bob)
    network.command("fail", count=1, reason="INCORRECT_PAYMENT_DETAILS", node="bob")
    shared = invoice(20)
    assert pay(shared, bearer(key)).status == 400
    # Begun again with another key: on account of that one.
    assert pay(shared, bearer(other)).status == 200
    assert pay(invoice(20), bearer(other)).status == 429
    assert pay(invoice(26), bearer(key)).status == 200
    # What is paid is told again, and costs nobody anything.
    assert pay(shared, bearer(key)).status == 200
    guarded.wait_until(lambda: len(audit_rows(guarded, "caller = 'payer'")) == 3)
    outcomes = [row[4] for row in audit_rows(guarded, "caller = 'payer'")]
    assert outcomes == ["FailedPrecondition", "paid", "repeated"]


def test_a_key_of_the_configuration_has_a_budget(guarded, bob):
    body = HELLO | {"pubkey": bob.pubkey, "amount": 9}
    refused = guarded.post("/v1/message/send", body, bearer(CONFIGURED))
    assert refused.status == 429
    assert "'configured'" in refused.json["message"]


def test_beside_daphne(guarded, bob):
    """Calls are passed on with their credentials and the client's address; runimpd counts and decides."""

    def attempt(number: int) -> None:
        key = store_key(guarded, f"beside {number}", ["read", "send"], calls_per_minute=4)
        known_at(daphne, guarded, f"after {number}")
        body = HELLO | {"pubkey": bob.pubkey}
        assert daphne.post("/v1/message/send", body, bearer(key)).status == 200
        assert guarded.get("/v1/messages", bearer(key)).status == 200
        assert daphne.get("/v1/messages", bearer(key)).status == 200
        assert guarded.get("/v1/node", bearer(key)).status == 200
        refused = daphne.get("/v1/messages", bearer(key))
        assert (refused.status, refused.json["code"]) == (429, 8)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        (row,) = audit_rows(guarded, f"caller = 'beside {number}' AND spends")
        assert row[5] == "127.0.0.1"

    with KeyedDaphne(guarded) as daphne:
        within_a_minute(attempt)
        key = known_at(daphne, guarded, "at the daphne")
        with WebsocketStream(daphne, additional_headers=bearer(key)) as stream:
            end_key(guarded, "at the daphne", "revoked_at")
            assert closed(stream).rcvd.code == 1008


def known_at(daphne: Daphne, engine: Node, name: str) -> str:
    """A new key that the daphne knows too, and with it all that were made before. It looks for itself, every second."""
    key = store_key(engine, name, ["read"])
    daphne.wait_until(lambda: daphne.get("/v1/messages", bearer(key)).status == 200)
    return key


def test_beyond_loopback_a_key_of_the_database_will_do(network, tmp_path):
    node = Node(network.nodes["carol"], tmp_path / "exposed")
    node.config_path.write_text(node.config_path.read_text().replace(node.http, f"0.0.0.0:{node.http_port}"))
    key = make_key(node, "only", "--scopes", "read")
    with node:
        assert (node.get("/v1/node").status, node.get("/v1/node", bearer(key)).status) == (401, 200)
        revoked = keys_command(node, "revoke", "only")
        assert "No key is valid now" in revoked.stderr
        node.wait_until(lambda: node.get("/v1/node", bearer(key)).status == 401)
        assert keys_command(node, "forget").returncode == 0
        node.wait_until(lambda: '"change": "revoked"' in node.log)
        assert node.get("/v1/node").status == 401
        node.stop()
        assert "keys make" in node.refused_start()
