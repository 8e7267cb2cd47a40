"""What the outbox writes: one function a step of a message's life, each run inside one transaction.

Every step is committed before its side effect: an attempt is stored before lnd hears of it, and an end is stored before
it is told. State changes name the states they may come from, so that a repeated step changes nothing.
"""

import json
from datetime import datetime, timedelta

from django.utils import timezone

from lightning.carrier import Carrier
from messaging import envelope, events, idempotency, peers
from messaging.database import insert_new
from messaging.models import TRANSITIONS, Attempt, Direction, Event, IdempotencyKey, Message, State
from messaging.packing import Load, pack


def attempt_for(load: Load, carrier: Carrier) -> Attempt:
    """A new attempt, with a fresh secret, not yet stored."""
    secret = carrier.new_secret()
    return Attempt(
        secret=secret,
        name=carrier.name_of(secret),
        destination=load.pubkey,
        service=load.service,
        packet=envelope.encode_packet(load.items),
        amount_msat=load.amount_msat,
    )


def store_accepted(messages: list[Message], attempts: list[Attempt], keys: list[IdempotencyKey]) -> None:
    """New messages, the attempts of those that leave at once, and the keys that callers gave."""
    idempotency.store(keys)
    Attempt.objects.bulk_create(attempts)
    insert_new(Message, messages)
    peers.touch(message.pubkey for message in messages)


def start_attempts(
    message_keys: list[int], carrier: Carrier, *, most: int
) -> tuple[list[tuple[Attempt, list[Message]]], list[int]]:
    """Packs waiting messages (by primary key) and stores up to `most` attempts. Also the keys that found no room."""
    found = Message.objects.filter(pk__in=message_keys, state__in=TRANSITIONS[State.IN_FLIGHT])
    by_key = {message.pk: message for message in found}
    messages = [by_key[key] for key in message_keys if key in by_key]
    loads = pack(messages, safe_room_bytes=carrier.safe_room_bytes)
    started = []
    now = timezone.now()
    for load in loads[:most]:
        attempt = attempt_for(load, carrier)
        attempt.save(force_insert=True)
        for message in load.messages:
            take_off(message, attempt, now)
        Message.objects.bulk_update(load.messages, ["state", "attempt", "attempts", "updated_at", "next_try_at"])
        started.append((attempt, load.messages))
    return started, sorted(message.pk for load in loads[most:] for message in load.messages)


def take_off(message: Message, attempt: Attempt, now: datetime) -> None:
    message.state = State.IN_FLIGHT
    message.attempt = attempt
    message.attempts += 1
    message.updated_at = now
    message.next_try_at = None


def settle(ended: list[tuple[Attempt, list[Message], int]], *, published: events.Published) -> None:
    """Attempts that were paid, each with its messages and its routing fee in msat."""
    now = timezone.now()
    attempts_by_fee: dict[int, list[Attempt]] = {}
    messages = []
    for attempt, carried, fee_msat in ended:
        attempts_by_fee.setdefault(fee_msat, []).append(attempt)
        share, rest = divmod(fee_msat, max(1, len(carried)))
        for position, message in enumerate(carried):
            message.fee_msat = share + (rest if position == 0 else 0)
            messages.append(message)
    for fee_msat, attempts in attempts_by_fee.items():
        _end_attempts(attempts, Attempt.State.SETTLED, now, fee_msat=fee_msat)
    _move(messages, State.SETTLED, now, published=published)


def fail(attempt: Attempt, messages: list[Message], *, cause: str, published: events.Published) -> None:
    """Ends the attempt and its messages for good."""
    now = timezone.now()
    _end_attempts([attempt], Attempt.State.FAILED, now, cause=cause)
    _move(messages, State.FAILED, now, cause=cause, published=published)


def retry(
    attempt: Attempt, messages: list[Message], *, cause: str, delay_seconds: float, alone: bool, published: events.Published
) -> list[Message]:
    """Ends the attempt; its messages wait for another, or fail where their time is over. Answers those that wait."""
    now = timezone.now()
    _end_attempts([attempt], Attempt.State.FAILED, now, cause=cause)
    next_try_at = now + timedelta(seconds=delay_seconds)
    late = [message for message in messages if message.expires_at and message.expires_at <= next_try_at]
    waiting = [message for message in messages if message not in late]
    for message in waiting:
        message.next_try_at = next_try_at
        message.alone = message.alone or alone
    _move(waiting, State.RETRYING, now, cause=cause, published=published)
    _move(late, State.FAILED, now, cause=f"its time is over; last: {cause}", published=published)
    return waiting


def unfinished_attempts() -> list[tuple[Attempt, list[Message]]]:
    attempts = Attempt.objects.filter(state=Attempt.State.IN_FLIGHT).order_by("created_at")
    return [(attempt, list(attempt.messages.filter(state=State.IN_FLIGHT).order_by("pk"))) for attempt in attempts]


def waiting_messages() -> list[tuple[int, str, datetime | None]]:
    """(primary key, peer, next try) of all messages that wait for an attempt, oldest first."""
    waiting = Message.objects.filter(direction=Direction.OUT, state__in=TRANSITIONS[State.IN_FLIGHT])
    return list(waiting.order_by("pk").values_list("pk", "pubkey", "next_try_at"))


def _end_attempts(
    attempts: list[Attempt], state: Attempt.State, now: datetime, *, fee_msat: int = 0, cause: str = ""
) -> None:
    Attempt.objects.filter(pk__in=[attempt.pk for attempt in attempts], state=Attempt.State.IN_FLIGHT).update(
        state=state, fee_msat=fee_msat, cause=cause[:500], ended_at=now
    )


def _move(
    messages: list[Message], state: State, now: datetime, *, cause: str = "", published: events.Published
) -> None:
    """Moves those messages that are where they may come from, and tells of them."""
    if not messages:
        return
    alike: dict[tuple, list[Message]] = {}
    for message in messages:
        next_try_at = message.next_try_at if state == State.RETRYING else None
        alike.setdefault((message.fee_msat, message.alone, next_try_at), []).append(message)
    moved: list[Message] = []
    for (fee_msat, alone, next_try_at), group in alike.items():
        keys = [message.pk for message in group]
        count = Message.objects.filter(pk__in=keys, state__in=TRANSITIONS[state]).update(
            state=state, error=cause[:500], fee_msat=fee_msat, alone=alone, next_try_at=next_try_at, updated_at=now
        )
        moved += group if count == len(group) else _moved_now(group, now)
    events.append([_delivery(message, state, cause) for message in moved], published=published)


def _moved_now(messages: list[Message], now: datetime) -> list[Message]:
    """Those that this step moved; the others had been moved before."""
    keys = [message.pk for message in messages]
    moved = set(Message.objects.filter(pk__in=keys, updated_at=now).values_list("pk", flat=True))
    return [message for message in messages if message.pk in moved]


def _delivery(message: Message, state: State, cause: str) -> Event:
    data = {
        "state": state.value,
        "service": message.service,
        "pubkey": message.pubkey,
        "attempts": message.attempts,
        "parts": 1,
        "amount": str(message.amount_msat // 1000),
        "feeMsat": str(message.fee_msat),
        "error": cause[:500],
    }
    if state == State.RETRYING:
        data["nextTryAt"] = message.next_try_at.isoformat()
    return Event(
        message_id=message.message_id,
        reply_to=message.reply_to,
        data=json.dumps(data, separators=(",", ":")).encode(),
        service_type="delivery",
        amount_sat=message.amount_msat // 1000,
    )
