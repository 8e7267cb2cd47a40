"""A node on PostgreSQL whose server goes away and comes back, and what it refuses there."""

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from urllib.parse import urlsplit, urlunsplit

import grpc
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from websockets.exceptions import InvalidStatus

from nodeapi.entry import WAITING_FOR_DATABASE
from nodeapi.server_lock import ADVISORY_KEY
from protos import node_pb2, node_pb2_grpc
from tests.support import commands
from tests.support.daphnes import Daphne
from tests.support.databases import end_sessions, lock_holders, only_on_postgres
from tests.support.networks import new_network, start_simulated
from tests.support.nodes import Node
from tests.support.ports import free_port
from tests.support.servers import PostgresServer
from tests.support.streams import SEND, WebsocketStream, b64, send
from tests.support.traffic import Traffic, assert_all_arrive_once

pytestmark = [only_on_postgres, pytest.mark.sql]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Of these tests alone: it is stopped, and waits for a standby."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory) -> Iterator[tuple[Node, Node]]:
    """A sender and a recipient on a network and a server of their own."""
    tmp_path = tmp_path_factory.mktemp("pair")
    simulated = new_network(tmp_path / "network", ["alice", "bob"])
    asyncio.run(start_simulated(simulated))
    try:
        alice, bob = (
            Node(simulated.nodes[name], tmp_path / name, database_url=server.new_database_url())
            for name in ("alice", "bob")
        )
        with alice, bob:
            yield alice, bob
    finally:
        asyncio.run(simulated.stop())


def end_all_sessions(*nodes: Node) -> None:
    for node in nodes:
        end_sessions(node.database_url)


def on_database(node: Node, statement: str) -> list[tuple]:
    with psycopg.connect(node.database_url, autocommit=True) as connection:
        found = connection.execute(statement)
        return found.fetchall() if found.description else []


def test_ended_sessions_under_traffic_lose_and_repeat_nothing(pair):
    alice, bob = pair
    with Traffic(alice, bob) as traffic:
        for _ in range(10):
            end_all_sessions(alice, bob)
            traffic.wait_for_more()
    assert {(reply.status, reply.json["code"]) for reply in traffic.refused} <= {(503, 14)}
    assert_all_arrive_once(alice, bob, traffic.ids)
    last = send(alice, bob)
    told = [event["id"] for event in stream_until(bob, last)]
    assert len(told) == len(set(told))
    assert set(traffic.ids) <= set(told)


def stream_until(node: Node, message_id: str) -> list[dict]:
    with WebsocketStream(node, "?after=0&service=message") as stream:
        return stream.until(lambda event: event["id"] == message_id)


def test_restarted_server_under_traffic_loses_and_repeats_nothing(server, pair):
    alice, bob = pair
    with Traffic(alice, bob) as traffic:
        server.stop()
        try:
            # The clients' own calls may all wait to hear what became of the last commit.
            late = alice.post(SEND, {"msg": b64(b"late"), "pubkey": bob.pubkey})
            assert alice.get("/v1/messages").status == 503
        finally:
            server.start()
        traffic.wait_for_more()
    assert {(reply.status, reply.json["code"]) for reply in [late, *traffic.refused]} == {(503, 14)}
    assert_all_arrive_once(alice, bob, traffic.ids)


def test_commit_that_was_made_but_not_answered_is_found_out(pair):
    """The server waits for a standby that is not there: what it has then is committed, and nobody was told."""
    alice, bob = pair
    with ThreadPoolExecutor(1) as pool:
        on_database(alice, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        try:
            on_database(alice, "SELECT pg_reload_conf()")
            sending = pool.submit(send, alice, bob)
            alice.wait_until(
                lambda: on_database(
                    alice,
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database()",
                )
            )
            end_all_sessions(alice)
        finally:
            on_database(alice, "ALTER SYSTEM RESET synchronous_standby_names")
            on_database(alice, "SELECT pg_reload_conf()")
        assert_all_arrive_once(alice, bob, [sending.result()])


def test_lost_lock_is_taken_again(pair):
    alice, bob = pair
    # A test before has ended its session too.
    alice.wait_until(lambda: lock_holders(alice.database_url))
    told, before = len(alice.log), lock_holders(alice.database_url)
    end_all_sessions(alice)
    alice.wait_until(lambda: "the database is locked again" in alice.log[told:])
    alice.wait_until(lambda: lock_holders(alice.database_url) - before)
    other = Node(alice.lnd, alice.directory.parent / "second", database_url=alice.database_url)
    assert f"process {alice.process.pid} on" in other.refused_start()
    assert_all_arrive_once(alice, bob, [send(alice, bob)])


def test_lock_that_another_took_meanwhile_ends_the_node(pair):
    alice, _ = pair
    alice.process.send_signal(signal.SIGSTOP)
    end_all_sessions(alice)
    with psycopg.connect(alice.database_url, autocommit=True) as other:
        while not other.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY]).fetchone()[0]:
            time.sleep(0.05)
        alice.process.send_signal(signal.SIGCONT)
        alice.ended_by_itself()
    assert "another runimpd (process unknown) runs on this database" in alice.log
    alice.start()


def test_paused_process_that_wakes_after_another_took_over_starts_nothing(pair):
    alice, bob = pair
    second = Node(alice.lnd, alice.directory.parent / "took-over", database_url=alice.database_url)
    with Traffic(alice, bob, clients=8, pause_seconds=0) as traffic:
        traffic.wait_for_more()
        alice.process.send_signal(signal.SIGSTOP)
        try:
            end_lock_session(alice)
            with second:
                with Traffic(second, bob) as further:
                    alice.process.send_signal(signal.SIGCONT)
                    alice.ended_by_itself()
                    further.wait_for_more()
                assert_all_arrive_once(second, bob, further.ids + traffic.ids)
                assert paid_messages(second) == received_payments(bob)
        finally:
            alice.process.send_signal(signal.SIGCONT)
    # One of the two is met first.
    assert "another runimpd has taken over this database" in alice.log or "runs on this database" in alice.log
    alice.start()


def test_paused_process_that_wakes_after_another_came_and_went_writes_nothing(pair):
    """The lock is free again: by the epoch alone it finds out that the database has gone on without it."""
    alice, bob = pair
    second = Node(alice.lnd, alice.directory.parent / "came-and-went", database_url=alice.database_url)
    with Traffic(alice, bob, clients=8, pause_seconds=0) as traffic:
        traffic.wait_for_more()
        alice.process.send_signal(signal.SIGSTOP)
        try:
            end_lock_session(alice)
            with second:
                assert_all_arrive_once(second, bob, [send(second, bob), *traffic.ids])
                second.stop()
            assert not lock_holders(alice.database_url)
        finally:
            alice.process.send_signal(signal.SIGCONT)
        alice.ended_by_itself()
    assert "another runimpd has taken over this database" in alice.log
    alice.start()
    assert_all_arrive_once(alice, bob, traffic.ids)
    assert paid_messages(alice) == received_payments(bob)


def test_process_whose_epoch_is_over_writes_nothing_more(pair):
    """Though it has the lock still, or has it again because the process that took over is gone."""
    alice, bob = pair
    on_database(alice, "UPDATE messaging_epoch SET number = number + 1")
    before = on_database(alice, "SELECT count(*) FROM messaging_message")
    # It stops at once: perhaps before it has answered.
    with suppress(HTTPException, ConnectionError):
        assert alice.post(SEND, {"msg": b64(b"late"), "pubkey": bob.pubkey}).status != 200
    alice.ended_by_itself()
    assert "another runimpd has taken over this database" in alice.log
    assert on_database(alice, "SELECT count(*) FROM messaging_message") == before
    alice.start()


def end_lock_session(node: Node) -> None:
    for (pid,) in lock_holders(node.database_url):
        on_database(node, f"SELECT pg_terminate_backend({pid})")
    node.wait_until(lambda: not lock_holders(node.database_url))


def paid_messages(node: Node) -> int:
    return on_database(node, "SELECT count(*) FROM messaging_attempt WHERE state = 'settled'")[0][0]


def received_payments(node: Node) -> int:
    return on_database(node, "SELECT count(*) FROM messaging_receivedhtlc")[0][0]


def test_transaction_of_a_paused_process_keeps_nobody_from_taking_over(pair):
    alice, bob = pair
    alice.stop()
    with psycopg.connect(alice.database_url) as paused:
        paused.execute("SELECT number FROM messaging_epoch WHERE id = 1 FOR SHARE")
        told = len(alice.log)
        alice.start()
        assert "an unfinished transaction of another runimpd is ended" in alice.log[told:]
        with pytest.raises(psycopg.OperationalError):
            paused.execute("SELECT 1")
    assert_all_arrive_once(alice, bob, [send(alice, bob)])


def test_server_that_is_not_there_is_told_without_the_password(network, tmp_path):
    url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/node"
    node = Node(network.nodes["carol"], tmp_path / "carol", database_url=url)
    node.launch()
    try:
        node.wait_until(lambda: "waiting for the database" in node.log)
    finally:
        node.kill()
    assert "hunter2" not in node.log
    assert "Traceback" not in node.log


def test_node_waits_for_a_server_that_starts_later(network, tmp_path):
    with PostgresServer() as server:
        url = server.new_database_url()
        server.stop()
        node = Node(network.nodes["carol"], tmp_path / "node", database_url=url)
        node.launch()
        try:
            node.wait_until(lambda: "waiting for the database" in node.log)
            with Daphne(node).serving() as beside:
                for process in (node, beside):
                    process.wait_until(lambda process=process: is_live(process))
                    assert_waits_for_database(process)
                with node.channel() as channel, pytest.raises(grpc.RpcError) as refused:
                    node_pb2_grpc.NodeStub(channel).GetInfo(node_pb2.GetInfoRequest())
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert refused.value.details() == WAITING_FOR_DATABASE
                shown = commands.run("status", config=node.config_path, cwd=node.directory)
                assert (shown.code, shown.err) == (1, f"Error: {WAITING_FOR_DATABASE}\n")
                server.start()
                node.wait_until(lambda: "IMPD started!" in node.log)
                for process in (node, beside):
                    process.wait_until(lambda process=process: process.get("/v1/node").status == 200)
                    process.wait_until(lambda process=process: process.get("/health/ready").status == 200)
                assert "Traceback" not in node.log + beside.log
        finally:
            node.kill()


def is_live(node: Node) -> bool:
    try:
        return node.get("/health/live").status == 200
    except OSError:
        return False


def assert_waits_for_database(node: Node) -> None:
    for path in ("/v1/node", "/v1/messages", "/v1/subscribe"):
        reply = node.get(path)
        assert (reply.status, reply.json["message"]) == (503, WAITING_FOR_DATABASE)
    assert node.get("/admin/login/").status == 503
    unready = node.get("/health/ready")
    assert unready.status == 503
    assert [reason["part"] for reason in unready.json["reasons"]] == ["database"]
    metrics = node.get("/metrics")
    assert metrics.status == 200
    assert b'impervious_health{part="database"} 0.0' in metrics.body
    with pytest.raises(InvalidStatus) as handshake:
        WebsocketStream(node)
    assert handshake.value.response.status_code == 503


def test_stop_while_the_server_is_not_there(network, tmp_path):
    url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/node"
    node = Node(network.nodes["carol"], tmp_path / "carol", database_url=url)
    node.launch()
    try:
        node.wait_until(lambda: "waiting for the database" in node.log and is_live(node))
        assert node.stop() == 0
    finally:
        node.kill()
    assert "IMPD stopped" in node.log


def test_what_no_waiting_mends_ends_the_start(network, tmp_path):
    with PostgresServer() as server:
        parts = urlsplit(server.new_database_url())
        wrong = parts._replace(netloc=f"impervious:hunter2@{parts.hostname}:{parts.port}")
        for url in (urlunsplit(wrong), urlunsplit(parts._replace(path="/no_such_database"))):
            log = Node(network.nodes["carol"], tmp_path / "node", database_url=url).refused_start()
            assert "database.url: the PostgreSQL database cannot be used" in log
            assert "hunter2" not in log


def test_server_that_forgets_commits_is_refused(network, tmp_path):
    node = Node(network.nodes["carol"], tmp_path / "carol")
    name = conninfo_to_dict(node.database_url)["dbname"]
    on_database(node, f"ALTER DATABASE {name} SET synchronous_commit = off")
    assert "synchronous_commit is off" in node.refused_start()
