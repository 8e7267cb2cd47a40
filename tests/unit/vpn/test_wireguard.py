"""`wg` as tests have it in memory: it does what the real one does in the same cases."""

from datetime import UTC, datetime

import pytest

from tests.support import wireguard_cases
from tests.support.fake_wireguard import FakeInterface, FakeWireGuard
from tests.support.wireguard_cases import nets, new_key
from vpn.keys import new_key_pair
from vpn.programs import ProgramMissing, ProgramTimeout
from vpn.reconcile import Changes
from vpn.wireguard import PEERS_PER_CALL, Statistics, WireGuardError

INTERFACE = "wg0"


class Memory:
    """A Target."""

    interface, listen_port = INTERFACE, 51820

    def __init__(self) -> None:
        self.wireguard = FakeWireGuard()
        self.pub_key = self.wireguard.add_interface(INTERFACE)
        self.unpermitted = FakeWireGuard()
        self.unpermitted.wg.interfaces = self.wireguard.wg.interfaces
        self.unpermitted.wg.is_permitted = False

    def add_interface(self) -> str:
        self.wireguard.add_interface("wg1", public_key="")
        return "wg1"

    def set_peer(self, key: str, networks: str) -> None:
        self.wireguard.wg.interfaces[INTERFACE].set_peer(key, sorted(nets(networks)))


@pytest.mark.parametrize("case", wireguard_cases.CASES, ids=lambda case: case.__name__)
async def test_case(case):
    await case(Memory())


@pytest.fixture
def wireguard() -> FakeWireGuard:
    wireguard = FakeWireGuard()
    wireguard.add_interface(INTERFACE)
    return wireguard


async def test_many_peers_are_set_in_batches(wireguard):
    keys = [new_key() for _ in range(PEERS_PER_CALL + 1)]
    await wireguard.apply(INTERFACE, Changes(remove=tuple(keys)))
    assert [command.count("remove") for command in wireguard.wg.commands] == [PEERS_PER_CALL, 1]


async def test_what_is_removed_goes_before_what_is_added(wireguard):
    old, new = new_key(), new_key()
    await wireguard.apply(INTERFACE, Changes(add={old: nets("10.0.0.2/32")}))
    await wireguard.apply(INTERFACE, Changes(add={new: nets("10.0.0.2/32")}, remove=(old,)))
    assert [command[3:] for command in wireguard.wg.commands[1:]] == [
        (old, "remove"),
        (new, "allowed-ips", "10.0.0.2/32"),
    ]
    assert await wireguard.peers(INTERFACE) == {new: nets("10.0.0.2/32")}


async def test_statistics_tell_of_the_peers(wireguard):
    key, moment = new_key(), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    await wireguard.apply(INTERFACE, Changes(add={key: nets("10.0.0.2/32")}))
    peer = wireguard.wg.interfaces[INTERFACE].peers[key]
    peer.latest_handshake, peer.received_bytes, peer.sent_bytes = moment, 7, 8
    assert await wireguard.statistics(INTERFACE) == {key: Statistics(moment, 7, 8)}


async def test_a_new_interface_is_given_its_port_and_key(wireguard, tmp_path):
    pair, file = new_key_pair(), tmp_path / "key"
    file.write_text(pair.private + "\n")
    await wireguard.configure(INTERFACE, listen_port=9, key_file=file)
    assert wireguard.wg.interfaces[INTERFACE] == FakeInterface(pair.public, 9)


@pytest.mark.parametrize(
    ("trouble", "text"),
    [(ProgramMissing("wg"), "no such program"), (ProgramTimeout("wg: did not end within 30 s"), "30 s")],
)
async def test_program_that_is_missing_or_hangs(wireguard, trouble, text):
    wireguard.wg.trouble = trouble
    with pytest.raises(WireGuardError, match=text):
        await wireguard.interfaces()


async def test_set_that_fails_changes_nothing(wireguard):
    wireguard.wg.set_fails_with = "Unable to modify interface: No buffer space available"
    with pytest.raises(WireGuardError, match="No buffer space"):
        await wireguard.apply(INTERFACE, Changes(add={new_key(): nets("10.0.0.2/32")}))
    assert await wireguard.peers(INTERFACE) == {}
