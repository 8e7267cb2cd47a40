"""What the outbox writes: one function a step of a message's life, each run inside one transaction.

Every step is committed before its side effect: an attempt is stored before lnd hears of it, and an end is stored before
it is told. State changes name the states they may come from, so that a repeated step changes nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.db.models import Q

from lightning.carrier import Carrier
from lightning.hints import HopHint
from messaging import clock, deliveries, divided, envelope, events, idempotency, notes, peers
from messaging.database import insert_new
from messaging.models import (
    ABANDONED,
    TRANSITIONS,
    UNASKED,
    Attempt,
    Division,
    IdempotencyKey,
    Message,
    Part,
    State,
    asked_for,
    unfinished,
)
from messaging.packing import Load, pack
from messaging.preimages import Preimages
from messaging.traffic import WHOLE, Key

# Whether a longer body fits is not tried by compressing it while others wait.
MAX_TRIED_BYTES = 8_192


Carried = Message | Part


class ChangedMeanwhileError(Exception):
    """What was to leave does not wait any more: somebody else has moved it since it was read."""


@dataclass(frozen=True, kw_only=True)
class Payer:
    """Who pays, by what carrier, with which preimages where they are not new ones, how the recipients may answer, and what
    is known of the room to a node.
    """

    pubkey: str
    carrier: Carrier
    preimages: Preimages
    hints: Callable[[], tuple[HopHint, ...]]
    room_to: Callable[[str], int] = lambda _: 0


@dataclass(frozen=True)
class Started:
    """Attempts that are stored, each with what it carries; the keys that go on waiting; and, when it is its turn, a
    message that may be too long for one payment.
    """

    attempts: list[tuple[Attempt, list[Carried]]]
    left: list[Key]
    long: Message | None = None


def attempt_for(load: Load, payer: Payer, hints: tuple[HopHint, ...]) -> Attempt:
    """A new attempt, not yet stored."""
    first = load.carried[0]
    # What has a secret of its own travels alone.
    secret = payer.carrier.new_secret() if first.secret_number is None else payer.preimages.of(first)
    name = payer.carrier.name_of(secret)
    return Attempt(
        id=uuid4() if first.secret_number is None else UUID(bytes=name[:16]),
        secret=secret,
        name=name,
        payer=payer.pubkey,
        destination=load.pubkey,
        service=load.service,
        packet=envelope.encode_packet(load.items, hints),
        amount_msat=load.amount_msat,
        fee_limit_msat=_fee_limit_msat(load, payer),
    )


def _fee_limit_msat(load: Load, payer: Payer) -> int:
    """The carrier's for the amount, but no more than all together permit that are carried."""
    usual_msat = payer.carrier.fee_limit_msat(load.amount_msat)
    limits = [one.fee_limit_msat if isinstance(one, Message) else None for one in load.carried]
    permitted_msat = sum(usual_msat if limit is None else limit for limit in limits)
    return min(usual_msat, permitted_msat)


def loads_of(carried: Iterable[Carried], payer: Payer) -> list[tuple[Load, tuple[HopHint, ...]]]:
    """What shares a payment, and the hints that go with it: of a divided message only the first part brings them."""
    hints = payer.hints()
    safe_room_bytes = payer.carrier.safe_room_bytes
    loads = pack(carried, safe_room_bytes=safe_room_bytes, room_to=payer.room_to, hints=hints)
    return [(load, hints if _may_bring_hints(load) else ()) for load in loads]


def _may_bring_hints(load: Load) -> bool:
    first = load.carried[0]
    return not isinstance(first, Part) or first.index == 0


def is_long(message: Message, carrier: Carrier) -> bool:
    """Whether a message surely does not fit the safe room uncompressed, and is too long to try."""
    return len(message.body) > max(MAX_TRIED_BYTES, carrier.safe_room_bytes)


def store_accepted(
    messages: list[Message],
    attempts: list[Attempt],
    keys: list[IdempotencyKey],
    noted: Sequence[notes.Note] = (),
) -> None:
    """New messages, the attempts of those that leave at once, the keys that callers gave, and what calls note."""
    idempotency.store(keys)
    notes.store(list(noted))
    _insert_attempts(
        attempts,
        {one.attempt_id for one in messages if one.attempt_id and one.secret_number is not None},
    )
    insert_new(Message, messages)
    peers.touch((message.pubkey for message in messages), written_to=True)


def store_queued(
    messages: list[Message],
    key: IdempotencyKey | None,
    step: Callable[[], None] | None,
    noted: Sequence[notes.Note] = (),
) -> None:
    """New messages that wait for their turn, all or none, the key that a caller gave for them, what the call notes, and,
    before them, the step that they belong to.
    """
    if step:
        step()
    idempotency.store([key] if key else [])
    notes.store(list(noted))
    insert_new(Message, messages)
    peers.touch((message.pubkey for message in messages), written_to=True)


def start_attempts(keys: list[Key], payer: Payer, *, most: int) -> Started:
    """Packs what waits under these keys, in their order, and stores up to `most` attempts."""
    found = _waiting(keys)
    # What was stored during the start waits twice: it was found in the database, and it was told.
    order = [key for key in dict.fromkeys(keys) if key in found]
    short: list[Carried] = []
    for key in order:
        one = found[key]
        if isinstance(one, Message) and is_long(one, payer.carrier):
            break
        short.append(one)
    loads = loads_of(short, payer)
    first_long = next(
        (n for n, (load, _) in enumerate(loads) if is_long_load(load, payer.carrier)), len(loads)
    )
    starting = loads[: min(most, first_long)]
    attempts = [(attempt_for(load, payer, hints), load.carried) for load, hints in starting]
    _store_attempts(attempts, clock.now())
    gone = {_key(taken) for _, carried in attempts for taken in carried}
    left = [key for key in order if key not in gone]
    long = found[left[0]] if left and len(starting) == first_long < most else None
    return Started(attempts, left, long if isinstance(long, Message) else None)


def start_whole(key: int, payer: Payer) -> Started:
    """Stores the attempt of a message that travels alone: one that was found to fit its route, or an unasked one. None if it
    does not wait any more.
    """
    found = list(_waiting([(key, WHOLE)]).values())
    attempts = [(attempt_for(load, payer, hints), load.carried) for load, hints in loads_of(found, payer)]
    _store_attempts(attempts, clock.now())
    return Started(attempts, [])


def give_up_answer(key: int, *, cause: str, published: events.Published) -> str:
    """An unasked message that may not be sent; its service, or nothing if it did not wait any more."""
    found = _messages(list(_waiting([(key, WHOLE)]).values()))
    for message in found:
        give_up(message, cause=cause, published=published)
    return found[0].service if found else ""


def start_divided(division: Division, parts: list[Part], *, cost_msat: int) -> list[Key]:
    """Stores a message's division; the keys of its parts, which wait from now on."""
    if not _waiting([(division.message.pk, WHOLE)]):
        return []
    division.message.cost_msat = cost_msat
    if not divided.store(division, parts, clock.now()):
        raise ChangedMeanwhileError
    return [(division.message.pk, part.index) for part in parts]


def put_off(
    message: Message, *, cause: str, delay_seconds: float, published: events.Published
) -> Message | None:
    """There is no way to its recipient now: it waits without an attempt. None when its time is over."""
    now = clock.now()
    message.attempts += 1
    message.next_try_at = now + timedelta(seconds=delay_seconds)
    if message.expires_at and message.expires_at <= message.next_try_at:
        give_up(message, cause=_late(cause), published=published)
        return None
    deliveries.move([message], State.RETRYING, now, cause=cause, published=published)
    return message


def give_up(message: Message, *, cause: str, published: events.Published) -> None:
    """A message of which nothing was sent, and nothing will be."""
    message.cost_msat = 0
    deliveries.move([message], State.FAILED, clock.now(), cause=cause, published=published)


def _waiting(keys: list[Key]) -> dict[Key, Carried]:
    """What may leave under these keys."""
    whole = [message_key for message_key, index in keys if index == WHOLE]
    messages = Message.objects.filter(pk__in=whole, parts=1, state__in=TRANSITIONS[State.IN_FLIGHT])
    found: dict[Key, Carried] = {(message.pk, WHOLE): message for message in messages}
    return found | divided.waiting(key for key in keys if key[1] != WHOLE)


def _messages(carried: list[Carried]) -> list[Message]:
    """Without parts: a part travels alone."""
    return [one for one in carried if isinstance(one, Message)]


def _key(carried: Carried) -> Key:
    return (carried.message_id, carried.index) if isinstance(carried, Part) else (carried.pk, WHOLE)


def is_long_load(load: Load, carrier: Carrier) -> bool:
    """Whether it is a message that may be too long for one payment."""
    alone = len(load.carried) == 1 and isinstance(load.carried[0], Message)
    return alone and load.size_bytes > carrier.safe_room_bytes


def _store_attempts(attempts: list[tuple[Attempt, list[Carried]]], now: datetime) -> None:
    _insert_attempts(
        [attempt for attempt, _ in attempts],
        {attempt.pk for attempt, (first, *_) in attempts if first.secret_number is not None},
    )
    for attempt, carried in attempts:
        _take_off_stored(_messages(carried), attempt, now)
    parts = [(attempt, first) for attempt, (first, *_) in attempts if isinstance(first, Part)]
    if parts and divided.take_off(parts, now) != len(parts):
        raise ChangedMeanwhileError


def _insert_attempts(attempts: Iterable[Attempt], guarded: Collection[UUID]) -> None:
    """One of the same secret as an attempt that has failed takes its place: lnd too has one payment of a hash."""
    ended = Attempt.objects.filter(pk__in=guarded).exclude(state=Attempt.State.IN_FLIGHT) if guarded else ()
    known = {attempt.pk for attempt in ended}
    for attempt in attempts:
        if attempt.pk in known:
            attempt.save(force_update=True)
    Attempt.objects.bulk_create([attempt for attempt in attempts if attempt.pk not in known])


def _take_off_stored(messages: list[Message], attempt: Attempt, now: datetime) -> None:
    """As `take_off`, and stores it: what is alike in one statement, which takes a fraction of bulk_update's time."""
    alike: dict[int, list[int]] = {}
    for message in messages:
        take_off(message, attempt, now)
        alike.setdefault(message.attempts, []).append(message.pk)
    for attempts, keys in alike.items():
        waiting = Message.objects.filter(pk__in=keys, parts=1, state__in=TRANSITIONS[State.IN_FLIGHT])
        count = waiting.update(
            state=State.IN_FLIGHT, attempt=attempt, attempts=attempts, updated_at=now, next_try_at=None
        )
        if count != len(keys):
            raise ChangedMeanwhileError


def take_off(message: Message, attempt: Attempt, now: datetime) -> None:
    message.state = State.IN_FLIGHT
    message.attempt = attempt
    message.attempts += 1
    message.updated_at = now
    message.next_try_at = None


def put_back(message: Message) -> None:
    """Undoes `take_off` of a new message that could not be stored."""
    message.state, message.attempt, message.attempts = State.QUEUED, None, 0


def settle(ended: list[tuple[Attempt, list[Carried], int]], *, published: events.Published) -> None:
    """Attempts that were paid, each with what it carried and its routing fee in msat."""
    now = clock.now()
    attempts_by_fee: dict[int, list[Attempt]] = {}
    messages: list[Message] = []
    parts: list[tuple[Part, int]] = []
    for attempt, carried, fee_msat in ended:
        attempts_by_fee.setdefault(fee_msat, []).append(attempt)
        if carried and isinstance(carried[0], Part):
            parts.append((carried[0], fee_msat))
            continue
        share, rest = divmod(fee_msat, max(1, len(carried)))
        for position, message in enumerate(_messages(carried)):
            message.fee_msat = share + (rest if position == 0 else 0)
            message.cost_msat = message.amount_msat + message.fee_msat
            messages.append(message)
    for fee_msat, attempts in attempts_by_fee.items():
        _end_attempts(attempts, Attempt.State.SETTLED, now, fee_msat=fee_msat)
    deliveries.move(messages, State.SETTLED, now, published=published)
    if parts:
        divided.settle(parts, now, published=published)


def fail(
    attempt: Attempt,
    carried: list[Carried],
    *,
    cause: str,
    published: events.Published,
    may_be_paid: bool = False,
) -> None:
    """Ends the attempt, and what it carried for good. An unasked message that may have been paid all the same goes on
    counting as if it was.
    """
    now = clock.now()
    _end_attempts([attempt], Attempt.State.FAILED, now, cause=cause)
    if carried and isinstance(carried[0], Part):
        divided.fail(carried[0], now, cause=cause, published=published)
        return
    failed = deliveries.end_abandoned(_messages(carried), now, cause=cause, may_be_paid=may_be_paid)
    for message in failed:
        if not (may_be_paid and message.is_unasked):
            message.cost_msat = 0
    deliveries.move(failed, State.FAILED, now, cause=cause, published=published)


def retry(
    attempt: Attempt,
    carried: list[Carried],
    *,
    cause: str,
    delay_seconds: float,
    alone: bool,
    published: events.Published,
    other_secret: bool = False,
) -> list[tuple[Key, datetime]]:
    """Ends the attempt; what it carried waits for another, or fails where its time is over. Answers what waits, and until
    when. `other_secret`: lnd never pays this one's hash again.
    """
    now = clock.now()
    _end_attempts([attempt], Attempt.State.FAILED, now, cause=cause)
    if other_secret:
        _use_next_secret(carried)
    if carried and isinstance(carried[0], Part):
        part = carried[0]
        again_at = divided.retry(part, now, cause=cause, delay_seconds=delay_seconds, published=published)
        return [(_key(part), again_at)] if again_at else []
    next_try_at = now + timedelta(seconds=delay_seconds)
    messages = deliveries.end_abandoned(_messages(carried), now, cause=cause)
    given_up = [message for message in messages if _is_last_attempt(message)]
    late = [
        message
        for message in messages
        if message not in given_up and message.expires_at and message.expires_at <= next_try_at
    ]
    waiting = [message for message in messages if message not in late and message not in given_up]
    for message in waiting:
        message.next_try_at = next_try_at
        message.alone = message.alone or alone
    for message in late + given_up:
        message.cost_msat = 0
    deliveries.move(waiting, State.RETRYING, now, cause=cause, published=published)
    deliveries.move(given_up, State.FAILED, now, cause=cause, published=published)
    deliveries.move(late, State.FAILED, now, cause=_late(cause), published=published)
    return [(_key(message), next_try_at) for message in waiting]


def _use_next_secret(carried: list[Carried]) -> None:
    for one in carried:
        if one.secret_number is not None:
            type(one).objects.filter(pk=one.pk).update(secret_number=one.secret_number + 1)


def _is_last_attempt(message: Message) -> bool:
    return message.max_attempts is not None and message.attempts >= message.max_attempts


def expire(*, published: events.Published) -> None:
    """Fails what waits and whose time is over. What is in flight is never failed for its time."""
    now = clock.now()
    waiting = unfinished().filter(parts=1, state__in=TRANSITIONS[State.IN_FLIGHT])
    by_cause: dict[str, list[Message]] = {}
    for message in waiting.filter(expires_at__lte=now).defer("body"):
        message.cost_msat = 0
        by_cause.setdefault(message.error, []).append(message)
    for cause, messages in by_cause.items():
        deliveries.move(messages, State.FAILED, now, cause=_late(cause), published=published)
    divided.expire(now, published=published)


def tell_suspected(causes: Mapping[bytes, str], cleared: Collection[bytes]) -> None:
    """Says of what is in flight why it hangs, by the names of attempts; takes it back where nothing is wrong any more."""
    # What is cleared comes first: another part of the same message may still hang.
    for name, cause in [*((name, "") for name in cleared), *causes.items()]:
        attempt = Attempt.objects.filter(name=name, state=Attempt.State.IN_FLIGHT).first()
        if attempt:
            in_flight = Message.objects.filter(state=State.IN_FLIGHT)
            in_flight.filter(attempt=attempt).update(error=cause[:500])
            attempt.parts.filter(state=State.IN_FLIGHT).update(error=cause[:500])
            in_flight.filter(pk__in=attempt.parts.values("message")).update(error=cause[:500])


def give_up_unsent(cause: str, *, published: events.Published) -> None:
    """Of a database that has come back from the past: what waits may have been sent already, and is not sent again; what
    is in flight is asked for, and not tried again if it has failed.
    """
    now = clock.now()
    unfinished().update(expires_at=now)
    waiting = unfinished().filter(parts=1, state__in=TRANSITIONS[State.IN_FLIGHT]).defer("body")
    deliveries.move(list(waiting), State.FAILED, now, cause=cause, published=published)
    divided.expire(now, cause=cause, published=published)


def _late(cause: str) -> str:
    return f"its time is over; last: {cause}" if cause else "its time is over"


def attempts_in_flight() -> list[UUID]:
    return list(Attempt.objects.filter(state=Attempt.State.IN_FLIGHT).values_list("pk", flat=True))


def unfinished_attempts(keys: Iterable[UUID] | None = None) -> list[tuple[Attempt, list[Carried]]]:
    """All, or those of these keys, each with what it carries."""
    attempts = Attempt.objects.filter(state=Attempt.State.IN_FLIGHT).order_by("created_at")
    if keys is not None:
        attempts = attempts.filter(pk__in=list(keys))
    return [(attempt, _carried_by(attempt)) for attempt in attempts]


def _carried_by(attempt: Attempt) -> list[Carried]:
    parts = attempt.parts.filter(state=State.IN_FLIGHT).select_related("message")
    return [*parts] or [*attempt.messages.filter(Q(state=State.IN_FLIGHT) | ABANDONED).order_by("pk")]


def waiting_answers() -> list[tuple[Message, datetime | None]]:
    """Unasked messages that wait for an attempt, without their bodies, and the time of their next one; oldest first."""
    waiting = unfinished().filter(state__in=TRANSITIONS[State.IN_FLIGHT], origin__in=UNASKED)
    return [(message, message.next_try_at) for message in waiting.defer("body").order_by("pk")]


def waiting_keys() -> list[tuple[Key, str, datetime | None]]:
    """(key, peer, next try) of all that was asked for and waits for an attempt, oldest first."""
    waiting = asked_for(unfinished()).filter(parts=1, state__in=TRANSITIONS[State.IN_FLIGHT])
    whole = [
        ((key, WHOLE), pubkey, at) for key, pubkey, at in waiting.values_list("pk", "pubkey", "next_try_at")
    ]
    return sorted(whole + divided.waiting_keys(), key=lambda row: row[0])


def _end_attempts(
    attempts: list[Attempt], state: Attempt.State, now: datetime, *, fee_msat: int = 0, cause: str = ""
) -> None:
    Attempt.objects.filter(pk__in=[attempt.pk for attempt in attempts], state=Attempt.State.IN_FLIGHT).update(
        state=state, fee_msat=fee_msat, cause=cause[:500], packet=b"", ended_at=now
    )
