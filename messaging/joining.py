"""Parts of long messages that were received → whole messages. Every step is part of the caller's transaction.

Parts come in any order, from any number of senders at once, over restarts. What is incomplete is bounded in number, bytes
and age. Keys cost nothing, so limits per sender stop nobody: half of the room is kept for peers that this node has written
to or that were marked, and among strangers the oldest goes first.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from django.db.models import Count, Q, Sum
from django.utils import timezone

from messaging import envelope, peers
from messaging.envelope import EnvelopeError, ItemPart
from messaging.models import Assembly, Direction, Peer, ReceivedPart, named


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bytes of a whole message; of incomplete ones: how many of one sender and in all, bytes received, seconds of age."""

    max_bytes: int
    per_peer: int
    in_all: int
    received_bytes: int
    seconds: int


@dataclass(frozen=True)
class Arrived:
    """One part, with its sender's key (hex) and the service it came for."""

    sender: str
    service: str
    part: ItemPart


@dataclass(frozen=True)
class Whole:
    """A message that is complete."""

    sender: str
    service: str
    id: UUID
    reply_to: UUID | None
    body: bytes
    amount_msat: int


@dataclass
class Joined:
    """What a batch of parts led to: whole messages, whose parts were taken, and what was dropped, by reason."""

    whole: list[Whole] = field(default_factory=list)
    senders: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)


class NotAdmitted(Exception):
    """A part with which a message would begin that the inbound policy refuses."""


def join(
    arrived: Iterable[Arrived], bounds: Bounds, *, may_begin: Callable[[Arrived], bool] = lambda _: True
) -> Joined:
    """Stores parts, and answers the messages that are complete with them. A message of which nothing is here yet begins
    only if it may.
    """
    arrived = list(arrived)
    joined = Joined()
    delivered = _delivered(arrived)
    known = peers.are_known({one.sender for one in arrived})
    room = _Room(bounds)
    for one in arrived:
        if (one.sender, one.part.id) in delivered:
            joined.dropped["part_of_a_delivered_message"] += 1
            continue
        try:
            whole = _take(one, one.sender in known, room, bounds, may_begin)
        except EnvelopeError as error:
            joined.dropped[error.reason] += 1
            continue
        except NotAdmitted:
            continue
        joined.senders.add(one.sender)
        if whole:
            joined.whole.append(whole)
            delivered.add((one.sender, one.part.id))
    joined.dropped.update(room.made)
    return joined


def forget_old(bounds: Bounds) -> int:
    """Drops what has been incomplete for too long, or is of a peer that was blocked; how many messages that were."""
    late = Q(created_at__lt=timezone.now() - timedelta(seconds=bounds.seconds))
    old = Assembly.objects.filter(late | Q(pubkey__in=Peer.objects.filter(blocked=True).values("pubkey")))
    keys = list(old.values_list("pk", flat=True))
    _forget(keys)
    return len(keys)


def _delivered(arrived: list[Arrived]) -> set[tuple[str, UUID]]:
    ids = {one.part.id for one in arrived}
    return set(named(Direction.IN, ids).values_list("pubkey", "message_id"))


def _take(
    one: Arrived, known: bool, room: "_Room", bounds: Bounds, may_begin: Callable[[Arrived], bool]
) -> Whole | None:
    """Stores one part; the message if that completes it. EnvelopeError when the part has to be dropped."""
    part = one.part
    assembly = Assembly.objects.filter(pubkey=one.sender, message_id=part.id).first()
    if assembly is None:
        if not may_begin(one):
            raise NotAdmitted
        room.make_for_message(one.sender, known)
        assembly = _begin(one, known)
    elif not _agrees(assembly, one):
        raise EnvelopeError("part_disagrees")
    elif ReceivedPart.objects.filter(assembly=assembly, index=part.index).exists():
        raise EnvelopeError("part_known")
    if assembly.received_bytes + len(part.body) > assembly.size:
        raise EnvelopeError("part_disagrees")
    room.make_for_bytes(len(part.body), assembly, known)
    if assembly.pk is None:
        assembly.save(force_insert=True)
    ReceivedPart.objects.create(assembly=assembly, index=part.index, body=part.body)
    assembly.received_parts += 1
    assembly.received_bytes += len(part.body)
    assembly.amount_msat += part.amount_msat
    if assembly.received_parts < assembly.count:
        assembly.save(update_fields=["received_parts", "received_bytes", "amount_msat"])
        return None
    return _complete(assembly, bounds.max_bytes)


def _begin(one: Arrived, known: bool) -> Assembly:
    part = one.part
    return Assembly(
        pubkey=one.sender,
        message_id=part.id,
        service=one.service,
        reply_to=part.reply_to,
        compression=part.compression,
        count=part.count,
        size=part.size,
        sha256=part.sha256,
        known=known,
    )


def _agrees(assembly: Assembly, one: Arrived) -> bool:
    part = one.part
    said = (assembly.service, assembly.count, assembly.size, bytes(assembly.sha256), assembly.compression)
    return said == (one.service, part.count, part.size, part.sha256, part.compression)


def _complete(assembly: Assembly, max_bytes: int) -> Whole | None:
    """The message, verified. EnvelopeError when it is not what the parts said; then all of it is gone."""
    bodies = ReceivedPart.objects.filter(assembly=assembly).order_by("index").values_list("body", flat=True)
    body = b"".join(bytes(body) for body in bodies)
    _forget([assembly.pk])
    if len(body) != assembly.size or hashlib.sha256(body).digest() != bytes(assembly.sha256):
        raise EnvelopeError("part_hash")
    return Whole(
        sender=assembly.pubkey,
        service=assembly.service,
        id=assembly.message_id,
        reply_to=assembly.reply_to,
        body=envelope.decompress(body, assembly.compression, max_bytes),
        amount_msat=assembly.amount_msat,
    )


def _forget(keys: list[int]) -> None:
    ReceivedPart.objects.filter(assembly__in=keys).delete()
    Assembly.objects.filter(pk__in=keys).delete()


class _Room:
    """The room for incomplete messages within one batch. `made` counts what was dropped to make room."""

    def __init__(self, bounds: Bounds):
        self._bounds = bounds
        self.made: Counter[str] = Counter()

    def make_for_message(self, sender: str, known: bool) -> None:
        if Assembly.objects.filter(pubkey=sender).count() >= self._bounds.per_peer:
            raise EnvelopeError("too_many_incomplete_from_one_peer")
        while True:
            counts = Assembly.objects.aggregate(all=Count("pk"), strangers=Count("pk", filter=Q(known=False)))
            if counts["all"] < self._bounds.in_all and (
                known or counts["strangers"] < self._bounds.in_all // 2
            ):
                return
            self._drop_oldest_stranger("too_many_incomplete")

    def make_for_bytes(self, more: int, assembly: Assembly, known: bool) -> None:
        while True:
            sums = Assembly.objects.aggregate(
                all=Sum("received_bytes", default=0),
                strangers=Sum("received_bytes", default=0, filter=Q(known=False)),
            )
            limit = self._bounds.received_bytes
            if sums["all"] + more <= limit and (known or sums["strangers"] + more <= limit // 2):
                return
            self._drop_oldest_stranger("too_many_incomplete_bytes", besides=assembly.pk)

    def _drop_oldest_stranger(self, reason: str, *, besides: int | None = None) -> None:
        """EnvelopeError when there is none to be dropped."""
        strangers = Assembly.objects.filter(known=False)
        if besides is not None:
            strangers = strangers.exclude(pk=besides)
        oldest = strangers.order_by("created_at", "pk").values_list("pk", flat=True).first()
        if oldest is None:
            raise EnvelopeError(reason)
        _forget([oldest])
        self.made[reason] += 1
