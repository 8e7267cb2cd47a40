"""The difference, and a model of `wg` on which it has to lead to the goal."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from vpn.pool import Pool
from vpn.reconcile import Changes, missing_after, reconcile

POOL = Pool((ipaddress.ip_network("10.0.0.0/28"),))
OWN = "own"
KEYS = ["a", "b", "c", "d", "e"]
OPERATORS = ["operator1", "operator2"]


def nets(*texts: str) -> frozenset:
    return frozenset(ipaddress.ip_network(text) for text in texts)


class Interface:
    """What `wg set` does: setting replaces a peer's addresses and takes them from others; the own key is ignored."""

    def __init__(self, peers):
        self.peers = dict(peers)

    def apply(self, changes: Changes) -> None:
        for key in changes.remove:
            self.peers.pop(key, None)
        for key, networks in (changes.add | changes.replace).items():
            if key == OWN:
                continue
            self.peers = {other: held - networks for other, held in self.peers.items()} | {key: networks}


def changed(desired, present, **more) -> Changes:
    return reconcile(desired, present, pool=POOL, own_key=OWN, **more)


_ADDRESSES = st.sampled_from([*(f"10.0.0.{host}/32" for host in range(1, 15)), "10.9.9.9/32", "10.8.0.0/16"])
_NETWORKS = st.frozensets(_ADDRESSES, max_size=2).map(lambda texts: nets(*texts))


@st.composite
def _interface(draw):
    """Peers as an interface can have them: no address twice."""
    model = Interface({})
    for key, networks in draw(st.dictionaries(st.sampled_from([*KEYS, *OPERATORS]), _NETWORKS)).items():
        model.apply(Changes(add={key: networks}))
    return model


@given(st.dictionaries(st.sampled_from([*KEYS, OWN]), _NETWORKS.filter(bool)), _interface())
def test_once_applied_nothing_is_left_to_do(desired, interface):
    before = dict(interface.peers)
    changes = changed(desired, before)
    interface.apply(changes)
    settable = {key: networks for key, networks in desired.items() if key not in changes.refused}
    assert missing_after(settable, interface.peers) == []
    assert changed(desired, interface.peers).empty
    # No peer that stays loses its session, and what is left alone is as it was.
    assert not set(changes.remove) & (changes.add.keys() | changes.replace.keys())
    assert all(interface.peers[key] == before[key] for key in changes.foreign)
    strangers = interface.peers.keys() - settable.keys()
    assert strangers == changes.foreign.keys()
    assert not any(POOL.holds(network) for key in strangers for network in interface.peers[key])


def test_a_peer_that_is_right_is_not_touched():
    peers = {"a": nets("10.0.0.2/32")}
    assert changed(peers, peers) == Changes()


def test_in_place():
    changes = changed({"a": nets("10.0.0.3/32")}, {"a": nets("10.0.0.2/32")})
    assert changes.replace == {"a": nets("10.0.0.3/32")}
    assert not changes.add
    assert not changes.remove


def test_peers_of_the_operator():
    present = {
        "far": nets("192.168.7.0/24"),
        "all": nets("0.0.0.0/0"),
        "none": nets(),
        "in": nets("10.0.0.8/29"),
        "both": nets("192.168.8.1/32", "10.0.0.1/32"),
        "old": nets(),
        "needed": nets("10.9.9.9/32"),
    }
    changes = changed({"a": nets("10.9.9.9/32")}, present, once_ours={"old"})
    assert set(changes.remove) == {"in", "both", "old", "needed"}
    assert changes.foreign == {name: present[name] for name in ("far", "all", "none")}


def test_what_cannot_be_set_is_refused():
    changes = changed(
        {"a": nets("10.0.0.2/32"), "b": nets("10.0.0.2/32", "10.0.0.3/32"), OWN: nets("10.0.0.4/32")}, {}
    )
    assert changes.add == {"a": nets("10.0.0.2/32")}
    assert changes.refused == {"b": "has an address of a", OWN: "is the server's own key"}


def test_reading_back_notices_what_was_taken_away():
    desired = {"a": nets("10.0.0.2/32"), "b": nets("10.0.0.3/32"), "c": nets("10.0.0.4/32")}
    present = {"a": nets(), "b": nets("10.0.0.3/32"), "x": nets("10.0.0.2/32")}
    assert missing_after(desired, present) == ["a", "c"]
