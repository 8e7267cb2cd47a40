"""A seller who prolongs nothing is paid for one automatic renewal, not for one every few seconds. The sellers are played by
the test, and the buyer's tunnels are a `wg` that tells of them: no interface is needed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning.simulator.process import SimulatedNetwork
from tests.support.databases import execute
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    REFRESH,
    Stranger,
    answer,
    as_stored,
    bought,
    contract_with,
    lease_body,
    moment,
    of_lease,
    one,
    post,
    running_network,
    told,
)
from vpn.keys import new_key_pair

PRICE_SAT = SECONDS = 1_000
TUNNELS = """#!/bin/sh
# Each line of the file: an interface, its public key, the key of its peer, whose handshake is fresh.
while read -r name key server; do
    case "$3 $2" in
        "public-key all") printf '%s\\t%s\\n' "$name" "$key" ;;
        "latest-handshakes $name") printf '%s\\t%s\\n' "$server" "$(date +%s)" ;;
        "transfer $name") printf '%s\\t1\\t1\\n' "$server" ;;
    esac
done < "$(dirname "$0")/tunnels"
"""


class Buyer:
    """A node that renews by itself what is in use."""

    def __init__(self, node: Node, directory: Path):
        self.node = node
        self._tunnels = directory / "tunnels"

    def buy(self, seller: Stranger) -> str:
        """A lease that is in use from then on; its id."""
        lease_id, _ = contract_with(seller, self.node, PRICE_SAT)
        key = new_key_pair().public
        self.pay(seller, lease_id)
        with WebsocketStream(self.node) as stream:
            seller.say(self.node, lease_id, **lease_body(lease_id, self.hash_of(lease_id), SECONDS, key))
            stream.until(of_lease("lease", lease_id))
        with self._tunnels.open("a") as tunnels:
            tunnels.write(f"wg-{lease_id[:8]} {bought(self.node, lease_id)['publicKey']} {key}\n")
        return lease_id

    def pay(self, seller: Stranger, call_id: str) -> None:
        seller.say(
            self.node, call_id, type="invoice", payment_request=seller.invoice(PRICE_SAT), seconds=SECONDS
        )
        state = f"SELECT state FROM vpn_purchase WHERE id = '{as_stored(self.node, call_id)}'"
        self.node.wait_until(lambda: one(self.node, state) == "paid")

    def hash_of(self, call_id: str) -> str:
        query = f"SELECT payment_hash FROM vpn_purchase WHERE id = '{as_stored(self.node, call_id)}'"
        return bytes(one(self.node, query)).hex()

    def come_near_the_end(self, lease_id: str) -> None:
        execute(
            self.node.database_url,
            f"UPDATE vpn_purchasedlease SET expires_at = '{moment(self.node, 300)}' "
            f"WHERE id = '{as_stored(self.node, lease_id)}'",
        )

    def renewal_of(self, seller: Stranger, lease_id: str) -> str:
        """The id of the refresh that nobody asked for, once the seller has it."""
        nonce = bought(self.node, lease_id)["nonce"]
        refresh_id, _ = seller.heard(lambda body: body["type"] == "refresh" and body["nonce"] == nonce)
        return refresh_id


@pytest.fixture
def lnds(tmp_path) -> Iterator[SimulatedNetwork]:
    with running_network(tmp_path / "network", ["mallory", "buyer", "honest"]) as lnds:
        yield lnds


@pytest.fixture
def buyer(lnds: SimulatedNetwork, tmp_path: Path) -> Iterator[Buyer]:
    wg = tmp_path / "wg"
    wg.write_text(TUNNELS)
    wg.chmod(0o755)
    (tmp_path / "tunnels").touch()
    renew = {"enabled": True, "budget_sat": 100_000, "lead_seconds": 600}
    extra = {"vpn": {"binary_path": str(wg), "auto_renew": renew}}
    with Node(lnds.nodes["buyer"], tmp_path / "buyer", extra=extra) as node:
        yield Buyer(node, tmp_path)


def test_seller_who_prolongs_nothing_is_paid_no_second_renewal(lnds, buyer):
    mallory, honest = (Stranger(lnds.nodes[name]) for name in ("mallory", "honest"))
    cheated, kept = buyer.buy(mallory), buyer.buy(honest)
    buyer.come_near_the_end(cheated)
    refresh_id = buyer.renewal_of(mallory, cheated)
    buyer.pay(mallory, refresh_id)
    with WebsocketStream(buyer.node) as stream:
        # The end stays where it was.
        again = lease_body(cheated, buyer.hash_of(refresh_id), 300, new_key_pair().public)
        mallory.say(buyer.node, refresh_id, **again | {"seconds": SECONDS})
        assert told(answer(stream, refresh_id, "refusal"))["reason"] == "less_time"
    paid_sat = mallory.paid_sat()
    # Nor after kill -9. Whatever of mallory's is due then is looked at before or together with the other seller's.
    buyer.node.kill()
    buyer.come_near_the_end(cheated)
    buyer.come_near_the_end(kept)
    buyer.node.start()
    buyer.renewal_of(honest, kept)
    renewals = "SELECT COUNT(*) FROM vpn_purchase WHERE automatic AND seller = "
    assert one(buyer.node, f"{renewals}'{mallory.pubkey}'") == 1
    assert mallory.paid_sat() == paid_sat == 2 * PRICE_SAT
    distrusted = "SELECT reason FROM vpn_unreliableseller"
    assert one(buyer.node, distrusted) == "less_time"
    # Until the operator asks anew.
    nonce = bought(buyer.node, cheated)["nonce"]
    post(buyer.node, REFRESH, pubkey=mallory.pubkey, nonce=nonce, price=str(PRICE_SAT))
    assert one(buyer.node, distrusted) is None
