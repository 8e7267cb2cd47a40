"""Messages that are sent, from state to state, and the events that tell of it. Part of the caller's transaction.

A move names the states it may come from, so that a repeated step changes nothing and tells nothing.
"""

import json
import logging
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from messaging import answers, events, metrics
from messaging.models import ABANDONED, Event, Message, State, may_come_into
from messaging.registry import on_failed

logger = logging.getLogger("messaging.deliveries")


def move(
    messages: list[Message], state: State, now: datetime, *, cause: str = "", published: events.Published
) -> None:
    """Moves those messages that are where they may come from, and tells of them. Their fee_msat, cost_msat, alone,
    attempts and (when retrying) next_try_at are stored as they are.
    """
    alike: dict[tuple[int, int, bool, int, datetime | None], list[Message]] = {}
    for message in messages:
        next_try_at = message.next_try_at if state == State.RETRYING else None
        key = (message.fee_msat, message.cost_msat, message.alone, message.attempts, next_try_at)
        alike.setdefault(key, []).append(message)
    moved: list[Message] = []
    for (fee_msat, cost_msat, alone, attempts, next_try_at), group in alike.items():
        keys = [message.pk for message in group]
        count = Message.objects.filter(may_come_into(state), pk__in=keys).update(
            state=state,
            error=cause[:500],
            fee_msat=fee_msat,
            cost_msat=cost_msat,
            alone=alone,
            attempts=attempts,
            next_try_at=next_try_at,
            updated_at=now,
            **({"abandoned_at": None} if state == State.SETTLED else {}),
        )
        moved += group if count == len(group) else _moved_now(group, now)
    if state in (State.SETTLED, State.FAILED):
        for message in moved:
            if message.is_unasked:
                answers.give_back(message)
    told = [_delivery(message, state, cause) for message in moved]
    if state == State.FAILED:
        told += [
            event
            for message in moved
            if (hook := on_failed(message.service))
            for event in hook(message, cause)
        ]
    events.append(told, published=published)
    if moved:
        transaction.on_commit(partial(_note, moved, state, now, cause), robust=True)


def end_abandoned(
    messages: list[Message],
    now: datetime,
    *,
    cause: str,
    cost_msat: int = 0,
    may_be_paid: bool = False,
) -> list[Message]:
    """The payment of these has failed. For those that are abandoned (messaging/abandoned.py) that is the end; the others are
    answered.

    Args:
        messages: What the payment carried.
        now: The time of the end.
        cause: Why the payment failed.
        cost_msat: What an abandoned message has cost all the same, with those of its parts that were paid.
        may_be_paid: Whether it is not known if they were paid; unasked ones go on counting as if they were.
    """
    left: list[Message] = []
    found = Message.objects.filter(ABANDONED, pk__in=[message.pk for message in messages])
    known = {message.pk: message for message in found.defer("body")}
    for message in messages:
        if message.pk not in known:
            left.append(message)
            continue
        row = known[message.pk]
        if not (may_be_paid and row.is_unasked):
            row.cost_msat = cost_msat
        row.fee_msat = message.fee_msat
        row.error = f"{row.error}; it was not delivered: {cause}"[:500]
        row.abandoned_at, row.updated_at = None, now
        row.save(update_fields=["cost_msat", "fee_msat", "error", "abandoned_at", "updated_at"])
        if row.is_unasked:
            answers.give_back(row)
    return left


def _note(moved: list[Message], state: State, now: datetime, cause: str) -> None:
    metrics.count_messages(moved, state)
    if state in (State.SETTLED, State.FAILED):
        metrics.count_ended(moved, state, now)
    # The only line about these messages at info: what is tried again ends some time.
    level = logging.DEBUG if state == State.RETRYING else logging.INFO
    alike: dict[tuple[str, str], list[Message]] = {}
    for message in moved:
        alike.setdefault((message.service, message.pubkey), []).append(message)
    for messages in alike.values():
        logger.log(level, "delivery", extra=_fields(messages, state, now, cause))


def _fields(messages: list[Message], state: State, now: datetime, cause: str) -> dict[str, Any]:
    """Of messages of one service to one node: sums, and the longest time and most attempts of one."""
    first = messages[0]
    return {
        "state": state.value,
        "cause": cause,
        "service": first.service,
        "peer": first.pubkey,
        "amount_msat": sum(message.amount_msat for message in messages),
        "fee_msat": sum(message.fee_msat for message in messages),
        "attempts": max(message.attempts for message in messages),
        "seconds": max(round((now - message.created_at).total_seconds(), 3) for message in messages),
        "messages": [str(message.message_id) for message in messages],
    }


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
        "parts": message.parts,
        "amount": str(message.amount_msat // 1000),
        "feeMsat": str(message.fee_msat),
        "error": cause[:500],
    }
    if state == State.RETRYING and message.next_try_at:
        data["nextTryAt"] = message.next_try_at.isoformat()
    return Event(
        message_id=message.message_id,
        reply_to=message.reply_to,
        data=json.dumps(data, separators=(",", ":")).encode(),
        service_type="delivery",
        amount_sat=message.amount_msat // 1000,
    )
