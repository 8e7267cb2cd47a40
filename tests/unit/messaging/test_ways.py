"""What requests carry, so that who answers them is paid for it: by the way there is, on a network in memory."""

import pytest

from lightning.carrier import KeysendCarrier
from lightning.dead_payments import DeadPayments
from messaging.ways import Ways
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.strangers import STRANGER


class NoHints:
    """A book in which nothing stands."""

    async def of(self, pubkey: str) -> tuple:
        return ()


def carrier_of(lnd: FakeLnd) -> KeysendCarrier:
    return KeysendCarrier(lnd, max_fee_sat=10, max_fee_percent=5.0, dead_payments=DeadPayments(lnd))


def ways_of(lnd: FakeLnd) -> Ways:
    return Ways(
        carrier=carrier_of(lnd),
        record_numbers={"vpn": 200_000},
        hints=NoHints(),  # type: ignore[arg-type]
        own_hints=lambda: (),
    )


@pytest.mark.parametrize(("hops", "postage_sat"), [(1, 2), (2, 3), (3, 4)])
async def test_postage_is_the_answers_satoshi_the_fee_of_the_way_and_one_more(hops, postage_sat):
    lnds = connected("one", "two", "three", "four")
    assert await ways_of(lnds[0]).postage_sat(lnds[hops].pubkey, "vpn") == postage_sat


async def test_postage_where_no_way_is_known():
    own, other = connected("own", "other")
    assert await ways_of(own).postage_sat(STRANGER, "vpn") == 2
    own.stop()
    assert await ways_of(own).postage_sat(other.pubkey, "vpn") == 2


async def test_node_exists_in_the_graph_or_as_a_channel_peer():
    own, peer, behind = connected("own", "peer", "behind", private=("peer", "behind"))
    carrier = carrier_of(own)
    assert await carrier.exists(bytes.fromhex(peer.pubkey))
    assert not await carrier.exists(bytes.fromhex(behind.pubkey))
    assert not await carrier.exists(bytes.fromhex(STRANGER))
    public, _, far = connected("own", "peer", "far")
    assert await carrier_of(public).exists(bytes.fromhex(far.pubkey))
