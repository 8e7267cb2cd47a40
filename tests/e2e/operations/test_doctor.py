"""`./impervious doctor` on set-ups that are broken in one way or several: it says which, and what to do."""

import asyncio
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from impervious_site.config import load_config
from lightning.rpcs import Rpc
from nodeapi import shown_certificate
from nodeapi.cli.doctor import lnd
from nodeapi.cli.doctor.findings import Patient, State
from tests.support.commands import GUARD_SECONDS, Ended, run
from tests.support.databases import ON_POSTGRES, execute, only_on_sqlite
from tests.support.macaroons import all_but, baked
from tests.support.networks import Network, new_network, start_simulated
from tests.support.nodes import Node

HALF_A_YEAR = timedelta(days=180)
EMPTY = "''" if ON_POSTGRES else "X''"


@pytest.fixture(autouse=True)
def patience(monkeypatch) -> None:
    """Of the checks in this process: an lnd on a machine that is busy with something else is well."""
    monkeypatch.setattr(shown_certificate, "CONNECT_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(lnd, "ANSWER_SECONDS", GUARD_SECONDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[Network]:
    """A network of its own, because its lnds are broken: a channel between two nodes, all of it on the side of one."""
    simulated = new_network(tmp_path_factory.mktemp("doctors"), ["rich", "poor"])
    asyncio.run(start_simulated(simulated))
    try:
        yield Network(simulated)
    finally:
        asyncio.run(simulated.stop())


@pytest.fixture
def node(world, tmp_path) -> Node:
    """Its configuration, on rich's lnd; it does not run."""
    return Node(world.nodes["rich"], tmp_path / "node")


@pytest.fixture(scope="module")
def running(world, tmp_path_factory) -> Iterator[Node]:
    with Node(world.nodes["poor"], tmp_path_factory.mktemp("running")) as node:
        yield node


def doctor(node: Node, *arguments: str, **options) -> Ended:
    return run("doctor", *arguments, config=node.config_path, cwd=node.directory, **options)


def wrongs(node: Node, **options) -> dict[str, list[str]]:
    """What is wrong with it, by check: each finding's words and advice."""
    ended = doctor(node, "--json", **options)
    told = ended.json
    found: dict[str, list[str]] = {}
    for finding in told["findings"]:
        assert finding["words"]
        assert set(finding) == {"check", "state", "words", "advice"}
        if finding["state"] == "wrong":
            assert finding["advice"], finding
            found.setdefault(finding["check"], []).append(f"{finding['words']} → {finding['advice']}")
    assert (told["ok"], ended.code, told["wrong"]) == (
        not found,
        1 if found else 0,
        sum(map(len, found.values())),
    )
    return found


def about_lnd(node: Node) -> list[str]:
    """What is wrong with its lnd, without a process of its own: there are many of these."""
    config = load_config(node.config_path, {})
    findings = lnd.check(Patient(config, version=""))
    assert all(finding.advice for finding in findings if finding.state is State.WRONG)
    return [f"{finding.words} → {finding.advice}" for finding in findings if finding.state is State.WRONG]


def test_a_node_that_is_well(running):
    ended = doctor(running)
    text = ended.out
    assert ended.code == 0, text
    assert "Nothing is wrong." in text
    assert "WRONG" not in text
    for words in (
        "the macaroon permits all calls",
        "keysend is on",
        "1 of 1 channels active",
        "with all migrations",
        "the node runs",
        "HTTP is answered",
        "the clock says",
    ):
        assert words in text, words


def test_looking_leaves_nothing_behind(world, running):
    before = [(entry["invoices"], entry["payments"]) for entry in world.command("info")]
    assert about_lnd(running) == []
    assert [(entry["invoices"], entry["payments"]) for entry in world.command("info")] == before


def test_everything_at_once(world, tmp_path):
    """lnd away, a port taken by another program, Redis away, secrets open to all, a placeholder, no migrations yet."""
    open_directory = Path(tempfile.mkdtemp(prefix="impervious-doctor-", dir="/tmp"))
    open_directory.chmod(0o755)
    try:
        extra = {
            "redis": {"url": "redis://:password-of-redis@127.0.0.1:1/0"},
            "vpn": {"server_pub_key": "YOUR_KEY"},
        }
        node = Node(
            world.nodes["rich"],
            open_directory,
            extra=extra,
            database_url=f"sqlite:///{tmp_path}/none.sqlite3",
        )
        node.config_path.chmod(0o644)
        with socket.create_server(("127.0.0.1", node.grpc_port)):
            world.command("down", node="rich")
            try:
                ended = doctor(node)
            finally:
                world.command("up", node="rich")
    finally:
        shutil.rmtree(open_directory)
    assert ended.code == 1
    assert ended.err == ""
    for words in (
        f"WRONG nothing listens at 127.0.0.1:{node.lnd.port}\n        → start lnd, or correct lightning.lnd_node.ip",
        f"WRONG server.grpc_addr: {node.grpc} is taken by another program ({Path(sys.executable).name[:6]}",
        "WRONG Redis at 127.0.0.1:1 cannot be used: nothing answers there",
        f"can read {node.config_path}, which holds secrets\n        → chmod o= {node.config_path}",
        "note  vpn.server_pub_key is no WireGuard key",
        "there is no database yet",
        "note  the node does not run",
    ):
        assert words in ended.out, ended.out
    assert "password-of-redis" not in ended.out


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "lock"}, "is locked: run `lncli unlock`"),
        ({"name": "starting"}, "is starting → wait"),
        ({"name": "keysend", "on": False}, "keysend is off in lnd: nothing can be received"),
        ({"name": "synced", "on": False}, "lnd is not in sync with the chain"),
    ],
)
def test_lnd_that_is_not_ready(world, node, fault, words):
    world.command(**fault, node="rich")
    try:
        (found,) = about_lnd(node)
    finally:
        world.command("up", node="rich")
        for name in ("keysend", "synced"):
            world.command(name, node="rich", on=True)
    assert words in found


def test_credentials_of_another_lnd(world, node):
    rich, poor = world.nodes["rich"], world.nodes["poor"]
    whole = node.config_path.read_text()
    for mine, others, words in (
        (rich.macaroon_path, poor.macaroon_path, "the macaroon: it was made by another lnd"),
        (rich.macaroon_path, poor.tls_cert_path, "lnd refuses the macaroon: cannot determine data format"),
        (rich.tls_cert_path, poor.tls_cert_path, "lnd shows another certificate than the one in"),
        (
            rich.pubkey,
            poor.pubkey,
            f"this lnd is {rich.pubkey}, but lightning.lnd_node.pub_key is {poor.pubkey}",
        ),
        (
            f"port: {rich.port}",
            f"port: {world_control_port(world)}",
            "speaks no TLS, so it is not lnd's gRPC port",
        ),
        ("ip: 127.0.0.1", "ip: nowhere.invalid", "has no address"),
    ):
        node.config_path.write_text(whole.replace(str(mine), str(others)))
        (found,) = about_lnd(node)
        assert words in found


def test_a_macaroon_that_is_too_weak(world, tmp_path):
    calls = all_but(Rpc.SEND_PAYMENT, Rpc.SETTLE_INVOICE)
    node = Node(baked(world.nodes["rich"], tmp_path, calls), tmp_path / "weak")
    (found,) = about_lnd(node)
    assert "the macaroon does not permit SendPaymentV2, SettleInvoice" in found
    assert "./impervious macaroon" in found
    node = Node(baked(world.nodes["rich"], tmp_path, all_but(Rpc.GET_INFO)), tmp_path / "weaker")
    (found,) = about_lnd(node)
    assert "does not permit even GetInfo" in found


def world_control_port(world: Network) -> int:
    return int((world.directory / "control.port").read_text())


def test_channels_that_carry_nothing(world, node, running):
    """rich pays all it can, so that poor's only channel gives nothing more; then poor is away."""
    # Its lnd was without the other's for a while, in other tests.
    running.wait_until(lambda: running.get("/v1/node").json["receivableSat"] != "0")
    all_msat = int(running.get("/v1/node").json["receivableSat"]) * 1000
    assert world.pay("rich", "poor", {}, amount_msat=all_msat)["status"] == "SUCCEEDED"
    try:
        (found,) = about_lnd(node)
        assert "nothing can be sent: this side of the channels is at its reserve" in found
        (found,) = about_lnd(running)
        assert "nothing can be received: the peers' side of the channels is at its reserve" in found
        assert "have a channel opened to this node" in found
        world.command("down", node="poor")
        try:
            (found,) = about_lnd(node)
        finally:
            world.command("up", node="poor")
        assert "none of the 1 channels is active: the peers are offline" in found
    finally:
        assert world.pay("poor", "rich", {}, amount_msat=all_msat)["status"] == "SUCCEEDED"


def test_no_channel(tmp_path):
    alone = new_network(tmp_path / "network", ["hermit"])
    asyncio.run(start_simulated(alone))
    try:
        (found,) = about_lnd(Node(alone.nodes["hermit"], tmp_path / "hermit"))
    finally:
        asyncio.run(alone.stop())
    assert "lnd has no channel: nothing can be sent or received" in found
    assert "lncli openchannel" in found


def test_a_full_disk(node):
    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    # Made while there was room, as by any earlier start.
    for name in ("impervious.secret_key", "config.secret_key"):
        node.config_path.with_name(name).write_text("made before")
    # What coverage has measured could not be stored either.
    unmeasured = {"COVERAGE_PROCESS_CONFIG": ""}
    (found,) = wrongs(node, preexec_fn=no_room, environ=unmeasured)["disk"]
    assert "nothing can be stored in" in found
    assert "make room" in found


def test_a_clock_that_went_back(running):
    """As the node stores events: by the clock before it was set."""
    later = datetime.now(UTC) + HALF_A_YEAR
    execute(
        running.database_url,
        "INSERT INTO messaging_event (message_id, from_pubkey, data, service_type, amount_sat, created_at) VALUES "
        f"('{'0' * 32}', '', {EMPTY}, 'message', 0, '{later:%Y-%m-%d %H:%M:%S+00:00}')",
    )
    try:
        (found,) = wrongs(running)["clock"]
    finally:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        execute(running.database_url, f"DELETE FROM messaging_event WHERE created_at > '{tomorrow:%Y-%m-%d}'")
    assert "the clock went back" in found
    assert "set this machine's clock" in found


def test_a_database_that_is_not_of_this_version(running):
    execute(
        running.database_url,
        "INSERT INTO django_migrations (app, name, applied) "
        "VALUES ('messaging', '9999_future', '2026-01-01 00:00:00+00:00')",
    )
    try:
        (found,) = wrongs(running)["database"]
        assert "made by a newer version" in found
        assert "messaging.9999_future" in found
    finally:
        execute(running.database_url, "DELETE FROM django_migrations WHERE name = '9999_future'")
    ((newest,),) = execute(
        running.database_url, "SELECT max(name) FROM django_migrations WHERE app = 'messaging'"
    )
    execute(
        running.database_url, f"DELETE FROM django_migrations WHERE app = 'messaging' AND name = '{newest}'"
    )
    try:
        (found,) = wrongs(running)["database"]
        assert f"is not migrated: messaging.{newest} is missing" in found
        assert "start the node again" in found
    finally:
        execute(
            running.database_url,
            "INSERT INTO django_migrations (app, name, applied) "
            f"VALUES ('messaging', '{newest}', '2026-01-01 00:00:00+00:00')",
        )


@only_on_sqlite
def test_a_database_that_is_damaged(node):
    database = Path(node.database_url.removeprefix("sqlite:///"))
    database.write_bytes(b"this was a database once" * 1000)
    (found,) = wrongs(node)["database"]
    assert "cannot be used" in found
    assert "put back a backup" in found


def test_a_configuration_that_cannot_be_used(node):
    node.config_path.write_text(node.config_path.read_text().replace("port:", "prot:") + "sqlite3: 5\n")
    ended = doctor(node)
    assert ended.code == 1
    assert "WRONG lightning.lnd_node.port: is missing" in ended.out
    assert "→ set it to" in ended.out
    told = doctor(node, "--json").json
    assert not told["ok"]
    wrong = [finding["check"] for finding in told["findings"] if finding["state"] == "wrong"]
    assert wrong == ["configuration", "configuration"]
    assert {"database", "clock", "disk"} < {finding["check"] for finding in told["findings"]}


def test_no_configuration(tmp_path):
    ended = run("doctor", config=None, cwd=tmp_path)
    assert ended.code == 1
    assert "no configuration: name one by --config" in ended.out
