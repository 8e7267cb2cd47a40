"""What becomes of messages that are divided into parts: steps of the ledger, each part of the caller's transaction.

Each part has the states of a message. The message is settled when all its parts are, and failed when one of them is and
none is under way any more: what is in flight may still be paid.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Count, F, Q, QuerySet, Sum

from messaging import clock, deliveries, events
from messaging.models import ABANDONED, TRANSITIONS, UNFINISHED, Attempt, Division, Message, Part, State
from messaging.traffic import Key

WAITING = TRANSITIONS[State.IN_FLIGHT]


def store(division: Division, parts: list[Part], now: datetime) -> bool:
    """Divides a waiting message, before the first attempt. False when it does not wait any more."""
    message = division.message
    message.parts = len(parts)
    message.amount_msat = sum(part.amount_msat for part in parts)
    message.updated_at = now
    whole = Message.objects.filter(pk=message.pk, parts=1, state__in=WAITING)
    if not whole.update(
        parts=message.parts, amount_msat=message.amount_msat, cost_msat=message.cost_msat, updated_at=now
    ):
        return False
    division.save(force_insert=True)
    Part.objects.bulk_create(parts)
    return True


def waiting(keys: Iterable[Key]) -> dict[Key, Part]:
    """The parts of these keys that wait for an attempt, each with its message and division."""
    wanted: dict[int, list[int]] = {}
    for message_key, index in keys:
        wanted.setdefault(message_key, []).append(index)
    if not wanted:
        return {}
    divisions = Division.objects.select_related("message").in_bulk(list(wanted))
    condition = Q()
    for message_key, indices in wanted.items():
        condition |= Q(message_id=message_key, index__in=indices)
    found = {}
    for part in Part.objects.filter(condition, state__in=WAITING):
        part.message = divisions[part.message_id].message
        found[part.message_id, part.index] = part
    return found


def waiting_keys() -> list[tuple[Key, str, datetime | None]]:
    """(key, peer, next try) of all parts that wait for an attempt, oldest message first."""
    rows = Part.objects.filter(state__in=WAITING).order_by("message_id", "index")
    values = rows.values_list("message_id", "index", "message__pubkey", "next_try_at")
    return [((message_key, index), pubkey, next_try_at) for message_key, index, pubkey, next_try_at in values]


def count_open(pubkey: str) -> int:
    """Divided messages to this node that have not ended."""
    return Message.objects.filter(pk__in=Division.objects.values("pk"), pubkey=pubkey).count()


def take_off(attempts: list[tuple[Attempt, Part]], now: datetime) -> int:
    """How many of these parts were waiting, and are in flight now."""
    parts = [part for _, part in attempts]
    taken = 0
    for attempt, part in attempts:
        part.state, part.attempt, part.next_try_at = State.IN_FLIGHT, attempt, None
        part.attempts += 1
        taken += Part.objects.filter(pk=part.pk, state__in=WAITING).update(
            state=part.state, attempt=attempt, attempts=part.attempts, next_try_at=None
        )
    for message_key in {part.message_id for part in parts}:
        count = sum(part.message_id == message_key for part in parts)
        Message.objects.filter(pk=message_key).update(attempts=F("attempts") + count)
        Message.objects.filter(pk=message_key, state__in=WAITING).update(
            state=State.IN_FLIGHT, updated_at=now, next_try_at=None
        )
    return taken


def settle(paid: list[tuple[Part, int]], now: datetime, *, published: events.Published) -> None:
    """Parts that were paid, each with its routing fee in msat."""
    by_fee: dict[int, list[int]] = {}
    for part, fee_msat in paid:
        by_fee.setdefault(fee_msat, []).append(part.pk)
    for fee_msat, keys in by_fee.items():
        Part.objects.filter(pk__in=keys, state=State.IN_FLIGHT).update(
            state=State.SETTLED, fee_msat=fee_msat, error=""
        )
    _conclude({part.message_id for part, _ in paid}, now, published)


def fail(part: Part, now: datetime, *, cause: str, published: events.Published) -> None:
    """One part can never be delivered: neither can the message."""
    _give_up({part.message_id}, cause)
    Part.objects.filter(pk=part.pk, state=State.IN_FLIGHT).update(state=State.FAILED, error=cause[:500])
    _conclude({part.message_id}, now, published)


def retry(
    part: Part, now: datetime, *, cause: str, delay_seconds: float, published: events.Published
) -> datetime | None:
    """The part waits for another attempt, until the answered moment; None when its message has failed meanwhile."""
    next_try_at = now + timedelta(seconds=delay_seconds)
    message = Message.objects.get(pk=part.message_id)
    if message.expires_at and message.expires_at <= next_try_at:
        fail(part, now, cause=f"its time is over; last: {cause}", published=published)
        return None
    if message.state == State.FAILED or Part.objects.filter(message=message, state=State.FAILED).exists():
        fail(part, now, cause=cause, published=published)
        return None
    Part.objects.filter(pk=part.pk, state=State.IN_FLIGHT).update(
        state=State.RETRYING, error=cause[:500], next_try_at=next_try_at
    )
    _conclude({message.pk}, now, published)
    return next_try_at


def expire(now: datetime, *, cause: str = "its time is over", published: events.Published) -> None:
    """Nothing more is sent of messages whose time is over; what is in flight is waited for."""
    # A join would let SQLite look through all messages for the few that are divided.
    divided = Message.objects.filter(pk__in=Division.objects.values("pk"))
    late = set(divided.filter(state__in=UNFINISHED, expires_at__lte=now).values_list("pk", flat=True))
    if late and _give_up(late, cause):
        _conclude(late, now, published)


def give_up(message: Message, now: datetime, *, cause: str, published: events.Published) -> bool:
    """Sends nothing more of it. False: payments are under way, whose end decides."""
    _give_up({message.pk}, cause)
    if Part.objects.filter(message=message, state=State.IN_FLIGHT).exists():
        return False
    _conclude({message.pk}, now, published)
    return True


def give_up_begun_by_others(own_pubkey: str, *, cause: str, published: events.Published) -> int:
    """The parts of a message must come from one node, or its recipient never joins them: of what another one has paid for in
    part, nothing more is sent. How many messages those are.
    """
    by_others = Part.objects.filter(state=State.SETTLED).exclude(attempt__payer__in=("", own_pubkey))
    begun = set(by_others.values_list("message_id", flat=True))
    _give_up(begun, cause)
    _conclude(begun, clock.now(), published)
    return len(begun)


def _give_up(message_keys: set[int], cause: str) -> int:
    """The parts that wait will not be sent; how many they are."""
    return Part.objects.filter(message__in=message_keys, state__in=WAITING).update(
        state=State.FAILED, error=cause[:500], next_try_at=None
    )


def _conclude(message_keys: set[int], now: datetime, published: events.Published) -> None:
    """Moves messages on according to their parts."""
    for message in Message.objects.filter(Q(state__in=UNFINISHED) | ABANDONED, pk__in=message_keys):
        parts = Part.objects.filter(message=message)
        counts = dict(parts.values_list("state").annotate(Count("pk")))
        if counts.get(State.IN_FLIGHT):
            continue
        if counts.get(State.FAILED):
            _fail(message, parts, counts.get(State.SETTLED, 0), now, published)
        elif counts.get(State.SETTLED) == message.parts:
            _settle(message, parts, now, published)
        elif message.state == State.IN_FLIGHT and (
            first := parts.filter(state=State.RETRYING).order_by("next_try_at").first()
        ):
            message.next_try_at = first.next_try_at
            deliveries.move([message], State.RETRYING, now, cause=first.error, published=published)


def _settle(message: Message, parts: QuerySet[Part], now: datetime, published: events.Published) -> None:
    message.fee_msat = parts.aggregate(fee_msat=Sum("fee_msat"))["fee_msat"]
    message.cost_msat = message.amount_msat + message.fee_msat
    deliveries.move([message], State.SETTLED, now, published=published)
    _forget(message)


def _fail(
    message: Message, parts: QuerySet[Part], paid_parts: int, now: datetime, published: events.Published
) -> None:
    cause = (
        parts.filter(state=State.FAILED)
        .exclude(error="")
        .order_by("-attempts", "index")
        .values_list("error", flat=True)[0]
    )
    if paid_parts:
        spent = parts.filter(state=State.SETTLED).aggregate(amount=Sum("amount_msat"), fee=Sum("fee_msat"))
        message.fee_msat = spent["fee"]
        message.cost_msat = spent["amount"] + spent["fee"]
        cause = (
            f"{cause}; {message.cost_msat / 1000:g} sat are spent on {paid_parts} of {message.parts} parts"
        )
    else:
        message.cost_msat = 0
    if message.abandoned_at:
        deliveries.end_abandoned([message], now, cause=cause, cost_msat=message.cost_msat)
    else:
        deliveries.move([message], State.FAILED, now, cause=cause, published=published)
    _forget(message)


def _forget(message: Message) -> None:
    Part.objects.filter(message=message).delete()
    Division.objects.filter(message=message).delete()
