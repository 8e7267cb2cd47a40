"""The relay's pump, as the process that it is, on real sockets."""

import json
import socket
import subprocess
import sys
import time

import pytest

from nodeapi.relay.ports import NoPorts, bind_pair, listening_on
from nodeapi.relay.process import PROGRAM
from nodeapi.relay.pump import HEADER_BYTES, Bucket
from tests.support.ports import free_port
from tests.support.udp import GUARD_SECONDS, UdpClient, introduce

LARGEST = 65_507
# Datagrams of 1,000 bytes that any system keeps for a process that does not run: what it drops nobody counts.
ROOM = 50


class Pump:
    def __init__(self, *, server_ip: str = "127.0.0.1", **settings):
        self.sockets = bind_pair(server_ip, port_range=None)
        self.ports = [one.getsockname()[1] for one in self.sockets]
        descriptors = [one.fileno() for one in self.sockets]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
        )
        self._write({"descriptors": descriptors, "pin": True} | settings)

    def _write(self, settings: dict) -> None:
        self.process.stdin.write(json.dumps(settings).encode() + b"\n")
        self.process.stdin.flush()

    def until(self, wanted) -> dict:
        """What it tells, up to the first that is wanted."""
        for line in self.process.stdout:
            if wanted(state := json.loads(line)):
                return state
        raise AssertionError("the pump has ended")

    def __enter__(self) -> "Pump":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        for one in self.sockets:
            one.close()


@pytest.fixture
def pump():
    with Pump() as pump:
        yield pump


@pytest.fixture
def pair(pump):
    with UdpClient(pump.ports[0]) as first, UdpClient(pump.ports[1]) as second:
        introduce(first, second)
        yield first, second


@pytest.mark.parametrize("datagram", [b"", b"x", b"\x00" * 1_200, b"y" * LARGEST], ids=len)
def test_both_ways_as_it_is(pair, datagram):
    for speaker, listener in (pair, pair[::-1]):
        speaker.say(datagram)
        assert listener.hear() == datagram


def test_counts_both_ways(pump):
    with UdpClient(pump.ports[0]) as first, UdpClient(pump.ports[1]) as second:
        second.say(b"nobody is there")
        pump.until(lambda state: state["peers"][1])
        for _ in range(3):
            first.say(b"12345")
            second.hear()
        second.say(b"1234567")
        first.hear()
        pump.process.stdin.close()
        last = json.loads(pump.process.stdout.readlines()[-1])
        assert [peer[1] for peer in last["peers"]] == [first.port, second.port]
    assert (last["datagrams"], last["passed_bytes"], last["dropped"]) == ([3, 1], [15, 7], 1)


def test_pinned_a_third_address_is_not_heard(pair, pump):
    first, second = pair
    with UdpClient(pump.ports[0]) as third:
        third.say(b"from a third")
        third.say(b"")
        first.say(b"from the first")
        assert second.hear() == b"from the first"
        second.say(b"answer")
        assert first.hear() == b"answer"
        assert third.waiting() == []
    assert pump.until(lambda state: state["dropped"] >= 2)["peers"][0][1] == first.port


def test_not_pinned_the_newest_address_has_the_port():
    with Pump(pin=False) as pump, UdpClient(pump.ports[0]) as first, UdpClient(pump.ports[1]) as second:
        introduce(first, second)
        with UdpClient(pump.ports[0]) as third:
            third.say(b"from a third")
            assert second.hear() == b"from a third"
            second.say(b"answer")
            assert third.hear() == b"answer"
        assert first.waiting() == []
        first.say(b"back")
        assert second.hear() == b"back"
        second.say(b"welcome")
        assert first.hear() == b"welcome"


def test_nothing_to_an_address_that_has_not_spoken(pump):
    with UdpClient(pump.ports[0]) as first, UdpClient(pump.ports[1]) as second:
        for _ in range(5):
            first.say(b"nobody is there")
        assert pump.until(lambda state: state["dropped"] == 5)["peers"][1] is None
        second.say(b"here I am")
        assert first.hear() == b"here I am"
        first.say(b"now")
        assert second.hear() == b"now"
        assert second.waiting() == []


def test_addresses_of_before_are_remembered():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.settimeout(GUARD_SECONDS)
        peers = [None, list(silent.getsockname())]
        state = {"peers": peers, "datagrams": [7, 8], "passed_bytes": [70, 80], "dropped": 9}
        with Pump(**state) as pump, UdpClient(pump.ports[0]) as first:
            first.say(b"still there?")
            assert silent.recv(100) == b"still there?"
            told = pump.until(lambda state: state["datagrams"][0] == 8)
    assert (told["datagrams"], told["passed_bytes"], told["dropped"]) == ([8, 8], [82, 80], 9)


def test_its_own_ports_are_nobody(pump):
    """As with a forged source: the two ports would send to each other for ever."""
    one, other = pump.sockets
    one.sendto(b"loop", ("127.0.0.1", pump.ports[1]))
    other.sendto(b"loop", ("127.0.0.1", pump.ports[0]))
    assert pump.until(lambda state: state["dropped"] == 2)["peers"] == [None, None]
    with UdpClient(pump.ports[0]) as first, UdpClient(pump.ports[1]) as second:
        introduce(first, second)


def test_idle_it_ends():
    with Pump(idle_seconds=1) as pump:
        assert pump.until(lambda state: "ended" in state)["ended"] == "idle"
        assert pump.process.wait(timeout=GUARD_SECONDS) == 0


def test_a_stranger_does_not_keep_it_from_being_idle():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        peers = [list(first.getsockname()), None]
        with Pump(idle_seconds=3, peers=peers) as pump, UdpClient(pump.ports[0]) as stranger:
            while pump.process.poll() is None:
                stranger.say(b"noise")
                time.sleep(0.01)
            assert b"idle" in pump.process.stdout.read()


def test_it_ends_with_its_standard_input(pump):
    pump.process.stdin.close()
    assert pump.process.wait(timeout=GUARD_SECONDS) == 0


def test_no_more_bytes_than_the_limit_lets_pass():
    limit, size, count = 20_000, 1_000, 200
    started = time.monotonic()
    with (
        Pump(max_bytes_per_second=limit) as pump,
        UdpClient(pump.ports[0]) as first,
        UdpClient(pump.ports[1]) as second,
    ):
        second.say()
        pump.until(lambda state: state["peers"][1])
        passed = 0
        for said in range(1, count + 1):
            first.say(b"x" * size)
            if said % ROOM == 0:
                state = pump.until(lambda state: state["dropped"] + state["datagrams"][0] == said + 1)
                # What was sent is heard, though perhaps not at once.
                while passed < state["datagrams"][0]:
                    second.hear()
                    passed += 1
        allowed = limit * (1 + time.monotonic() - started) + size + HEADER_BYTES
        assert second.waiting() == []
        assert passed >= limit // (size + HEADER_BYTES)
    assert passed * (size + HEADER_BYTES) <= allowed


@pytest.mark.parametrize("size", [0, 100, LARGEST])
def test_the_limit_over_a_long_time(size):
    now = 0.0
    bucket = Bucket(10_000, clock=lambda: now)
    passed = 0
    for _ in range(10_000):
        now += 0.001
        while bucket.take(size):
            passed += size + HEADER_BYTES
    # A second's worth at the beginning, and a datagram too much at the end.
    assert 100_000 <= passed <= 110_000 + size + HEADER_BYTES


def test_a_flood_on_one_side_does_not_silence_the_other(pair, pump):
    first, second = pair
    with UdpClient(pump.ports[0]) as stranger:
        for _ in range(200):
            for _ in range(50):
                stranger.say(b"flood")
            second.say(b"through")
            assert first.hear() == b"through"


@pytest.mark.parametrize(
    ("server_ip", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.5", "127.0.0.5"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("203.0.113.5", "0.0.0.0"),
        ("10.0.0.7", "0.0.0.0"),
        ("2001:db8::1", "::"),
    ],
)
def test_where_it_listens(server_ip, host):
    assert listening_on(server_ip)[1] == host


def test_dual_stack():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with (
        Pump(server_ip="2001:db8::1") as pump,
        UdpClient(pump.ports[0], "::1") as six,
        UdpClient(pump.ports[1]) as four,
    ):
        introduce(six, four)


def test_ports_out_of_a_range():
    lowest = free_port()
    pair = bind_pair("127.0.0.1", port_range=(lowest, lowest + 99))
    more = bind_pair("127.0.0.1", port_range=(lowest, lowest + 99))
    ports = [one.getsockname()[1] for one in (*pair, *more)]
    try:
        assert len(set(ports)) == 4
        assert ports == sorted(ports)
        assert lowest <= ports[0]
        assert ports[-1] <= lowest + 99
        with pytest.raises(NoPorts, match=r"socket\.port_range.* from .* to "):
            bind_pair("127.0.0.1", port_range=(ports[0], ports[1]))
        with pytest.raises(NoPorts, match=str(ports[0])):
            bind_pair("127.0.0.1", port_range=None, wanted=(ports[0], ports[3]))
    finally:
        for one in (*pair, *more):
            one.close()
