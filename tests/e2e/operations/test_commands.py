"""The commands about a running node, as their user runs them: status, send, listen, peers, leases."""

import json
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from impervious_site.config import load_config
from nodeapi.cli.client import Door, NodeClient, NodeError, find_key
from nodeapi.cli.listen import content
from nodeapi.cli.send import read_body
from nodeapi.terminal import safe
from tests.support.commands import Running, command, run
from tests.support.nodes import ROOT, Node
from tests.support.streams import WebsocketStream, send

KEY = "a-key-with-more-than-20-characters"
READER = "reader-key-with-enough-characters"
# A point of the curve that no node has.
NOBODY = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
HOSTILE = "title \x1b]0;owned\x07 red \x1b[31m leftwards \u202e one \x9b2J\n#99 message from 02aa  forged line  1000000 sat\rgone"


def listening(node: Node, *arguments: str) -> Running:
    """`listen`, once it is live."""
    running = Running("listen", *arguments, config=node.config_path, cwd=node.directory)
    running.wait_until(lambda listener: "Listening" in listener.err)
    return running


def last_seq(node: Node) -> str:
    return node.get("/v1/node").json["lastSeq"]


def test_status(alice, bob):
    told = command(alice, "status", "--json").json
    assert told["node"]["pubkey"] == alice.pubkey
    assert int(told["node"]["spendableSat"]) > 0
    assert set(told) == {"address", "node", "messages", "leases", "leasesSold", "members"}
    assert set(told["messages"]) == {"queued", "in_flight", "retrying"}
    shown = command(alice, "status")
    assert shown.code == 0
    assert "\x1b" not in shown.out
    for words in (alice.pubkey, "in sync, keysend on", "message    running  400000"):
        assert words in shown.out


def test_a_message_is_followed_to_its_end(alice, bob):
    ended = command(alice, "send", bob.pubkey, "hello", "--wait", "--json", "--amount", "7")
    assert ended.code == 0
    assert (ended.json["state"], ended.json["amount"]) == ("settled", "7")
    bob.wait_until(lambda: bob.get(f"/v1/message/{ended.json['id']}").status == 200)
    seen = {peer["pubkey"]: peer for peer in command(alice, "peers", "--json").json}
    assert seen[bob.pubkey]["writtenTo"] is True


def test_bytes_from_standard_input(alice, bob):
    body = bytes(range(256))
    ended = command(alice, "send", bob.pubkey, "-", stdin=body)
    assert ended.code == 0
    message_id = ended.out.split()[1]
    bob.wait_until(lambda: bob.get(f"/v1/message/{message_id}").status == 200)


def test_what_does_not_arrive_is_told_by_the_exit_code(alice):
    ended = command(alice, "send", NOBODY, "hello", "--wait", "--expires-in", "1", "--json")
    assert (ended.code, ended.json["state"]) == (1, "failed")
    assert ended.json["error"]


def test_what_the_node_refuses_is_one_line(alice):
    ended = command(alice, "send", "02aa", "x")
    assert (ended.code, ended.out, ended.err) == (1, "", "Error: pubkey: must be 66 hexadecimal digits\n")
    unsendable = command(alice, "send", NOBODY, "x", "--idempotency-key", "tab\there")
    assert unsendable.code == 1
    assert unsendable.err.startswith("Error: --idempotency-key: must be of printable ASCII")
    empty = command(alice, "send", NOBODY, "x", "--idempotency-key", "")
    assert empty.code == 1
    assert empty.err.startswith("Error: Idempotency-Key: must have 1 to")
    with pytest.raises(NodeError, match="nothing to send"):
        read_body("")


def test_no_lease(alice):
    assert "No VPN lease runs" in command(alice, "leases").out


def test_what_a_hostile_node_sends_does_nothing_to_a_terminal(alice, bob):
    cursor = last_seq(bob)
    message_id = send(alice, bob, HOSTILE.encode())
    # Others may write to bob too.
    with WebsocketStream(bob, f"?after={cursor}") as stream:
        seq = int(stream.until(lambda event: event["id"] == message_id)[-1]["seq"])
    arguments = [
        "listen",
        "--config",
        str(bob.config_path),
        "--after",
        str(seq - 1),
        "--service",
        "message",
        "--count",
        "1",
    ]
    shown = on_a_terminal(arguments, columns=80)
    for forbidden in ("\x1b]0", "\x07", "\x1b[31m", "\u202e", "\x9b"):
        assert forbidden not in shown
    for escaped in (r"\x1b]0;owned\x07", r"\x1b[31m", r"\u202e", r"\x9b2J", r"sat\x0dgone"):
        assert escaped in shown
    (forged,) = [line for line in without_colour(shown).splitlines() if "forged line" in line]
    assert forged.startswith("  │ ")
    event = json.loads(command(bob, *arguments[:1], *arguments[3:], "--json").out)["result"]
    assert (event["id"], event["fromPubkey"]) == (message_id, alice.pubkey)


def on_a_terminal(arguments: list[str], *, columns: int) -> str:
    """All that the command wrote to a terminal."""
    master, slave = pty.openpty()
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("IMPD_", "NO_COLOR"))
    }
    environ |= {"TERM": "xterm-256color", "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environ,
    )
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65536):
            written += piece
    except OSError:
        # What Linux says when the other end of a terminal is closed.
        pass
    finally:
        os.close(master)
    assert process.wait() == 0, written
    return written.decode()


def without_colour(text: str) -> str:
    while "\x1b[" in text:
        before, _, rest = text.partition("\x1b[")
        text = before + rest.lstrip("0123456789;")[1:]
    return text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut, 漢字, 🙂", "plain, ümläut, 漢字, 🙂"),
        ("\x1b[2J\x00\x7f\x85", r"\x1b[2J\x00\x7f\x85"),
        ("\u202e\u2066\u200b\ufeff\u2028\U000e0041", r"\u202e\u2066\u200b\ufeff\u2028\U000e0041"),
        ("one\ntwo\r\nthree\tend", "one\ntwo\nthree   end"),
        ("\rback", r"\x0dback"),
        ("a" + "\u0301" * 6, "a" + "\u0301" * 4 + r"\u0301\u0301"),
    ],
)
def test_characters_that_a_terminal_obeys_are_escaped(text, shown):
    assert safe(text, lines=True) == shown
    assert "\n" not in safe(text)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", [""]),
        (b"\xff\x00", ["hex ff00"]),
        (b"\x00\x01\x02", ["hex 000102"]),
        (b"\xff" * 33, ["base64 " + "/" * 44]),
        (b"x" * 2001, ["x" * 2000, "… 1 more bytes (--full shows them)"]),
    ],
)
def test_how_content_is_shown(data, lines):
    assert content(data, whole=False) == lines


@pytest.fixture(scope="module")
def guarded(network, tmp_path_factory) -> Iterator[Node]:
    """A node on carol's lnd that asks for a key; its configuration has two."""
    directory = tmp_path_factory.mktemp("commanded")
    (directory / "all.key").write_text(KEY + "\n")
    (directory / "reader.key").write_text(READER + "\n")
    keys = [
        {"name": "reader", "key_file": "reader.key", "scopes": ["read"]},
        {"name": "all", "key_file": "all.key", "scopes": ["read", "send", "pay"]},
    ]
    with Node(network.nodes["carol"], directory, extra={"server": {"api_keys": keys}}) as node:
        yield node


def test_keys(guarded, bob):
    """A key of the configuration that is good for the call, unless another is given."""
    assert command(guarded, "send", bob.pubkey, "hello").code == 0
    reader = str(guarded.directory / "reader.key")
    refused = command(guarded, "send", bob.pubkey, "hello", environ={"IMPD_API_KEY_FILE": reader})
    assert refused.code == 1
    assert "lacks the scope 'send'" in refused.err


def asking(node: Node, **options) -> NodeClient:
    """What the commands ask with, in this process."""
    config = load_config(node.config_path, {})
    return NodeClient(
        Door.of(config, find_key(config, scopes=frozenset({"read"}), **{"key_file": None} | options))
    )


def test_keys_that_are_of_no_use(guarded, tmp_path):
    with asking(guarded) as client:
        assert client.info().pubkey == guarded.pubkey
    for content_of_file, words in (
        ("unknown-key-of-enough-characters", r"the node does not know the API key \(from --key-file"),
        ("short", "this is no API key"),
        (None, "No such file"),
    ):
        path = tmp_path / "a.key"
        path.unlink(missing_ok=True)
        if content_of_file:
            path.write_text(content_of_file)
        with pytest.raises(NodeError, match=words) as refused, asking(guarded, key_file=str(path)) as client:
            client.info()
        assert content_of_file is None or content_of_file not in str(refused.value)
    config = load_config(guarded.config_path, {})
    with (
        pytest.raises(NodeError, match="the node asks for an API key"),
        NodeClient(Door.of(config)) as client,
    ):
        client.info()
    with pytest.raises(NodeError, match=r"no key in server\.api_keys has the scopes admin"):
        find_key(config, scopes=frozenset({"admin"}), key_file=None)


def test_listen_misses_nothing_while_the_node_is_killed(guarded, bob):
    """Once before the first event, and once again."""
    sent = []
    with listening(guarded, "--service", "message", "--json") as listener:
        for _ in range(2):
            guarded.kill()
            sent += [send(bob, guarded, b"meanwhile") for _ in range(3)]
            guarded.start()
            sent += [send(bob, guarded, b"afterwards") for _ in range(3)]
            listener.wait_until(lambda listener: all(message_id in listener.out for message_id in sent))
        events = [json.loads(line)["result"] for line in listener.out.splitlines()]
        assert listener.err.count("went away") == listener.err.count("is back") == 2
    assert sorted(event["id"] for event in events) == sorted(sent)
    places = [int(event["seq"]) for event in events]
    assert places == sorted(set(places))


def test_a_message_is_followed_through_a_restart(guarded, bob, network):
    network.command("hold", node="bob")
    try:
        arguments = (bob.pubkey, "hello", "--wait")
        early = command(guarded, "send", *arguments, "--timeout", "0.1")
        assert early.code == 1
        assert "Not ended yet" in early.err
        with Running("send", *arguments, config=guarded.config_path, cwd=guarded.directory) as sending:
            sending.wait_until(lambda sending: "in flight" in sending.out or "queued" in sending.out)
            guarded.kill()
            guarded.start()
            network.command("release", node="bob")
            assert sending.wait() == 0, sending.err
            assert "settled" in sending.out
    finally:
        network.command("release", node="bob")


def test_a_node_that_does_not_run(network, tmp_path):
    node = Node(network.nodes["carol"], tmp_path / "away")
    ended = command(node, "listen")
    assert ended.code == 1
    assert ended.out == ""
    assert ended.err.startswith(f"Error: no node answers at {node.grpc}")
    assert len(ended.err.splitlines()) == 1
    ended = run("status", config=None, cwd=tmp_path)
    assert ended.code == 1
    assert ended.err.startswith("Error: no configuration")


def test_another_program_at_the_port(network, tmp_path):
    node = Node(network.nodes["carol"], tmp_path / "other")
    with socket.create_server(("127.0.0.1", node.grpc_port)):
        config = load_config(node.config_path, {})
        with pytest.raises(NodeError), NodeClient(Door.of(config), call_seconds=1) as client:
            client.info()


def test_the_list_of_commands(tmp_path):
    told = run("commands", config=None, cwd=tmp_path).out
    for name in ("status", "send", "listen", "peers", "leases", "doctor", "simulate", "vpn"):
        assert f"\n{name} " in told
    assert "\nrunimpd" not in told
    assert "createsuperuser" not in told
