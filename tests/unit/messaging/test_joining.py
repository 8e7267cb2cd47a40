"""Parts → whole messages, on a real database: whatever comes in whatever order, each message once, and never too much."""

import hashlib
import os
from uuid import UUID, uuid4

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Count, Sum
from hypothesis import given, settings
from hypothesis import strategies as st

from messaging import envelope
from messaging.envelope import ItemPart
from messaging.joining import Arrived, Bounds, forget_old, join
from messaging.models import Assembly, Direction, Message, Peer, ReceivedPart, State
from messaging.packing import divide, pack
from tests.support.examples import examples

SENDERS = [f"02{number:064x}" for number in range(1, 9)]
FRIEND = SENDERS[0]
BOUNDS = Bounds(max_bytes=20_000, per_peer=64, in_all=1_024, received_bytes=2**26, seconds=90_000)
NARROW = Bounds(max_bytes=500, per_peer=2, in_all=6, received_bytes=900, seconds=90_000)


@pytest.fixture(autouse=True, scope="module")
def migrated():
    call_command("migrate", verbosity=0)
    yield
    clear()
    connection.close()


def clear() -> None:
    for model in (ReceivedPart, Assembly, Message, Peer):
        model.objects.all().delete()


def parts_of(sender: str, body: bytes, room_bytes: int) -> list[Arrived]:
    """A message as the other end divides it, and as its parts come here."""
    message = Message(
        message_id=uuid4(), pubkey="02" + "aa" * 32, service="message", body=body, amount_msat=1_000
    )
    division, parts = divide(message, room_bytes=room_bytes)
    message.parts, message.division = len(parts), division
    items = [item for load in pack(parts, safe_room_bytes=0) for item in load.items]
    raw = envelope.encode_packet(items)
    opened = envelope.open_packet(bytes.fromhex(sender), raw, paid_msat=10**12, max_bytes=BOUNDS.max_bytes)
    return [Arrived(sender, "message", part) for part in opened.parts]


texts = st.builds(lambda word, count: word * count, st.binary(min_size=1, max_size=30), st.integers(1, 300))
bodies = st.one_of(st.binary(min_size=1, max_size=4_000), texts)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SENDERS), bodies), min_size=1, max_size=5),
    st.integers(300, 1_206),
    st.randoms(use_true_random=False),
)
def test_every_message_comes_out_once_whatever_the_order(sent, room_bytes, dice):
    clear()
    messages = [parts_of(sender, body, room_bytes) for sender, body in sent]
    arrived = [part for parts in messages for part in parts]
    arrived += dice.sample(arrived, len(arrived) // 2)
    dice.shuffle(arrived)
    out = []
    while arrived:
        batch = [arrived.pop() for _ in range(min(len(arrived), dice.randint(1, 7)))]
        with transaction.atomic():
            whole = join(batch, BOUNDS).whole
            out += whole
            # As the inbox does, in the same transaction.
            Message.objects.bulk_create(
                Message(
                    message_id=one.id,
                    direction=Direction.IN,
                    pubkey=one.sender,
                    service=one.service,
                    body=one.body,
                    amount_msat=one.amount_msat,
                    state=State.RECEIVED,
                )
                for one in whole
            )
    expected = sorted(
        (parts[0].sender, parts[0].part.id, body) for parts, (_, body) in zip(messages, sent, strict=True)
    )
    assert sorted((one.sender, one.id, one.body) for one in out) == expected
    assert {one.id: one.amount_msat for one in out} == {
        parts[0].part.id: sum(one.part.amount_msat for one in parts) for parts in messages
    }
    assert not Assembly.objects.exists()
    assert not ReceivedPart.objects.exists()


def hostile_part(sender: str, name: int, index: int, count: int, size: int, length: int) -> Arrived:
    part = ItemPart(
        id=UUID(int=name),
        reply_to=None,
        body=os.urandom(min(length, size)),
        amount_msat=0,
        sent_at_ms=0,
        compression=0,
        index=min(index, count - 1),
        count=min(count, size),
        size=size,
        sha256=hashlib.sha256(b"never").digest(),
    )
    return Arrived(sender, "message", part)


hostile = st.builds(
    hostile_part,
    st.sampled_from(SENDERS),
    st.integers(0, 9),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(4, 500),
    st.integers(1, 400),
)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(hostile, max_size=40))
def test_bounds_hold_whatever_comes(arrived):
    clear()
    Peer.objects.create(pubkey=FRIEND, marked=True)
    for one in arrived:
        assert join([one], NARROW).whole == []
        counts = Assembly.objects.aggregate(n=Count("pk"), b=Sum("received_bytes", default=0))
        assert counts["n"] <= NARROW.in_all
        assert counts["b"] <= NARROW.received_bytes
        strangers = Assembly.objects.filter(known=False).aggregate(
            n=Count("pk"), b=Sum("received_bytes", default=0)
        )
        assert strangers["n"] <= NARROW.in_all // 2
        assert strangers["b"] <= NARROW.received_bytes // 2
        for sender in SENDERS:
            assert Assembly.objects.filter(pubkey=sender).count() <= NARROW.per_peer
        stored = sum(len(body) for body in ReceivedPart.objects.values_list("body", flat=True))
        assert stored == counts["b"]


def test_known_peer_is_not_pushed_out_by_strangers():
    clear()
    Peer.objects.create(pubkey=FRIEND, written_to=True)
    join([hostile_part(FRIEND, 100, 0, 3, 300, 100)], NARROW)
    for name in range(30):
        join([hostile_part(f"03{name:064x}", name, 0, 3, 300, 100)], NARROW)
    assert Assembly.objects.filter(pubkey=FRIEND).exists()


def test_old_ones_are_forgotten():
    clear()
    join([hostile_part(FRIEND, 1, 0, 3, 300, 100)], BOUNDS)
    assert forget_old(BOUNDS) == 0
    Assembly.objects.update(created_at="2020-01-01T00:00:00Z")
    assert forget_old(BOUNDS) == 1
    assert not ReceivedPart.objects.exists()
