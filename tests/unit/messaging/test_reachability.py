"""Where unasked messages may be sent, on a real database: whatever strangers make up, lnd is not sent looking for it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from lightning.client import LndError, Trouble
from lightning.hints import HopHint
from messaging import hints, peers, reachability
from messaging.database import Database
from messaging.hints import HintBook
from messaging.metrics import UNKNOWN_NODE, UNPROVEN_HINT
from messaging.models import Peer
from messaging.reachability import Reachability
from tests.support.outboxes import OTHER_PUBKEY, OWN_PUBKEY, PUBKEY
from tests.support.tables import emptied

pytestmark = pytest.mark.sql

THIRD_PUBKEY = "02" + "33" * 32
HINT = HopHint(node_id=OWN_PUBKEY, chan_id=7, fee_base_msat=1, fee_ppm=1, cltv_delta=40)
OTHER_HINT = replace(HINT, chan_id=8)


class Known:
    """What a carrier knows: these nodes are there."""

    def __init__(self, *pubkeys: str) -> None:
        self.pubkeys, self.asked = set(pubkeys), 0

    async def exists(self, destination: bytes) -> bool:
        self.asked += 1
        return destination.hex() in self.pubkeys


@pytest.fixture(autouse=True)
def tables(migrated: None) -> Iterator[None]:
    peers._touched_at.clear()
    yield from emptied([Peer])


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()


def reach_of(database: Database, carrier: Known, *, per_hour: int = 10) -> Reachability:
    return Reachability(
        carrier=carrier, database=database, hints=HintBook(database), unproven_hints_per_hour=per_hour
    )


def tell(*pubkeys: str, hint: HopHint = HINT) -> None:
    """These peers have written, with a hint."""
    peers.touch(pubkeys)
    for pubkey in pubkeys:
        hints.store(pubkey, (hint,))


async def test_node_that_is_there_is_reached(database):
    carrier = Known(PUBKEY)
    asked = reach_of(database, carrier)
    assert await asked.problem(PUBKEY) == ""
    assert await asked.problem(PUBKEY) == ""
    assert carrier.asked == 1


async def test_key_that_no_node_has_is_not(database):
    await database.write(lambda: peers.touch([PUBKEY]))
    assert await reach_of(database, Known()).problem(PUBKEY) == UNKNOWN_NODE


async def test_hint_over_a_node_that_is_not_there_is_not_tried(database):
    await database.write(lambda: tell(PUBKEY))
    assert await reach_of(database, Known()).problem(PUBKEY) == UNKNOWN_NODE
    peer = await database.read(lambda: Peer.objects.get(pk=PUBKEY))
    assert peer.hint_tried_at is None


async def test_unproven_hint_is_tried_once(database):
    await database.write(lambda: tell(PUBKEY))
    asked = reach_of(database, Known(OWN_PUBKEY.hex()))
    assert await asked.problem(PUBKEY) == ""
    assert await asked.problem(PUBKEY) == UNPROVEN_HINT
    # Nor after a restart.
    assert await reach_of(database, Known(OWN_PUBKEY.hex())).problem(PUBKEY) == UNPROVEN_HINT


async def test_other_hints_are_tried_as_far_as_all_may_be(database):
    asked = reach_of(database, Known(OWN_PUBKEY.hex()), per_hour=2)
    await database.write(lambda: tell(PUBKEY))
    assert await asked.problem(PUBKEY) == ""
    await database.write(lambda: tell(PUBKEY, hint=OTHER_HINT))
    asked._hints.learned(PUBKEY)
    assert await asked.problem(PUBKEY) == ""
    await database.write(lambda: tell(OTHER_PUBKEY, THIRD_PUBKEY))
    assert await asked.problem(OTHER_PUBKEY) == ""
    assert await asked.problem(THIRD_PUBKEY) == UNPROVEN_HINT
    past = timezone.now() - timedelta(minutes=61)
    await database.write(lambda: Peer.objects.update(hint_tried_at=past))
    assert await asked.problem(THIRD_PUBKEY) == ""


async def test_strict_rule_tries_none(database):
    await database.write(lambda: tell(PUBKEY))
    asked = reach_of(database, Known(OWN_PUBKEY.hex()), per_hour=0)
    assert await asked.problem(PUBKEY) == UNPROVEN_HINT


async def test_who_is_written_to_may_be_tried_again(database):
    await database.write(lambda: tell(PUBKEY))
    asked = reach_of(database, Known(OWN_PUBKEY.hex()))
    assert await asked.problem(PUBKEY) == ""
    await database.write(lambda: peers.touch([PUBKEY], written_to=True))
    assert await asked.problem(PUBKEY) == ""


async def test_hint_that_worked_is_used_whatever_the_limit(database):
    await database.write(lambda: tell(PUBKEY))
    asked = reach_of(database, Known(), per_hour=0)
    await asked.note_worked(PUBKEY, (HINT,))
    assert await asked.problem(PUBKEY) == ""
    assert await reach_of(database, Known(), per_hour=0).problem(PUBKEY) == ""
    # Another one is another way.
    await database.write(lambda: tell(PUBKEY, hint=OTHER_HINT))
    asked._hints.learned(PUBKEY)
    assert await asked.problem(PUBKEY) == UNKNOWN_NODE


async def test_lnd_that_is_away_says_nothing_of_a_node(database):
    class Away(Known):
        async def exists(self, destination: bytes) -> bool:
            raise LndError(Trouble.AWAY, "away")

    with pytest.raises(LndError):
        await reach_of(database, Away()).problem(PUBKEY)


def test_every_reason_has_its_words():
    assert set(reachability.CAUSES) == {UNKNOWN_NODE, UNPROVEN_HINT}
