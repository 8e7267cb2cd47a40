"""What is deleted in the course of time, and what never is.

A rule finds what may go, a page at a time in the order of a key that is indexed, and deletes it in batches of its own, so
that other writes need not wait. Nothing is deleted that is under way, or by which something is known again:
- the keys of received HTLCs: with them the walk over lnd's invoices knows what it has told already, however old;
- peers, federations, leases, invoices and their payments: they are few, and they are the node's books;
- idempotency keys and the budget look back for a day, and senders repeat themselves for a day: what is younger than
  two days cannot be deleted (messages.keep_days).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import models, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from federation.models import Step
from messaging import peers
from messaging.database import Database
from messaging.events import last_seq
from messaging.models import Attempt, Direction, Event, Message, Part, State
from nodeapi.models import AuditEntry, RelayRun
from vpn.models import LeaseStep
from vpn.states import LeaseState

logger = logging.getLogger("nodeapi.retention")

PAGE = 1_000
ENDED = (State.SETTLED, State.FAILED, State.RECEIVED)
# A request to federate may still be answered by an accept, which is known by it (federation/steps.py).
# What was given up by hand stays until lnd has told the end of its payment.
PRUNABLE = Message.objects.filter(abandoned_at=None).exclude(
    direction=Direction.OUT, service="federate", reply_to=None
)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """For how many days events, and all that messages leave behind, are kept; None: for ever. What strangers sent is kept
    for `strangers_days` at most.
    """

    events_days: int | None
    messages_days: int | None
    strangers_days: int | None = None


@dataclass(frozen=True)
class Page:
    """Keys of what may be deleted, and where the next page begins; None: there is none."""

    keys: list
    place: Any


@dataclass(frozen=True)
class Rule:
    """`page(before, place)` finds what ended before a moment; `delete(keys)` deletes of these what may go still.
    `count(before)` is how many rows that would be, in one query.
    """

    name: str
    days: Callable[[Keep], int | None]
    page: Callable[[datetime, Any], Page]
    delete: Callable[[list], int]
    count: Callable[[datetime], int]


def _walk(rows: models.QuerySet, place: Any, *fields: str) -> list[tuple]:
    """The next rows in the order of their key, which comes first in each."""
    rows = rows if place is None else rows.filter(pk__gt=place)
    return list(rows.order_by("pk").values_list("pk", *fields)[:PAGE])


def _timed(rows: models.QuerySet, field: str, before: datetime, place: Any) -> Page:
    """Of rows that came one after the other."""
    found = _walk(rows, place, field)
    keys = [key for key, moment in found if moment < before]
    return Page(keys, found[-1][0] if len(found) == PAGE and keys else None)


def _delete_of(rows: models.QuerySet, keys: list) -> int:
    return rows.filter(pk__in=keys).delete()[0]


def _count_of(rows: models.QuerySet, field: str, before: datetime) -> int:
    return rows.filter(**{f"{field}__lt": before}).count()


def _old_events() -> models.QuerySet:
    """The newest event stays: the next one's place in the log follows from it."""
    return Event.objects.filter(seq__lt=last_seq())


def _events_page(before: datetime, place: Any) -> Page:
    return _timed(_old_events(), "created_at", before, place)


def _events_count(before: datetime) -> int:
    return _count_of(_old_events(), "created_at", before)


def _messages_page(before: datetime, place: Any) -> Page:
    return _page_of(PRUNABLE, before, place)


def _old_messages(messages: models.QuerySet, before: datetime) -> models.QuerySet:
    return messages.filter(state__in=ENDED, updated_at__lt=before)


def _messages_count(before: datetime) -> int:
    return _old_messages(PRUNABLE, before).count()


def _of_strangers() -> models.QuerySet:
    """What peers have sent that this node has not written to, and that nobody has marked; records without a sender too."""
    return peers.of_strangers(PRUNABLE.filter(direction=Direction.IN))


def _strangers_page(before: datetime, place: Any) -> Page:
    return _page_of(_of_strangers(), before, place)


def _strangers_count(before: datetime) -> int:
    return _old_messages(_of_strangers(), before).count()


def _strangers_delete(keys: list) -> int:
    return _of_strangers().filter(pk__in=keys, state__in=ENDED).delete()[0]


def _page_of(messages: models.QuerySet, before: datetime, place: Any) -> Page:
    # Their keys grow with their time: behind a page of young ones there are no old ones.
    found = _walk(messages, place, "state", "created_at", "updated_at")
    keys = [key for key, state, _, updated_at in found if state in ENDED and updated_at < before]
    more = len(found) == PAGE and any(created_at < before for _, _, created_at, _ in found)
    return Page(keys, found[-1][0] if more else None)


def _messages_delete(keys: list) -> int:
    return PRUNABLE.filter(pk__in=keys, state__in=ENDED).delete()[0]


def _attempts_page(before: datetime, place: Any) -> Page:
    found = _walk(Attempt.objects.all(), place, "state", "ended_at")
    ended = [
        key
        for key, state, ended_at in found
        if state != Attempt.State.IN_FLIGHT and ended_at and ended_at < before
    ]
    going = Message.objects.filter(state__in=ENDED, updated_at__lt=before)
    return Page(_unnamed(ended, besides=going), found[-1][0] if len(found) == PAGE else None)


def _attempts_count(before: datetime) -> int:
    going = _old_messages(PRUNABLE, before).values("pk")
    staying = Message.objects.filter(attempt=OuterRef("pk")).exclude(pk__in=going)
    parts = Part.objects.filter(attempt=OuterRef("pk")).exclude(message__in=going)
    ended = Attempt.objects.filter(ended_at__lt=before).exclude(state=Attempt.State.IN_FLIGHT)
    return ended.exclude(Exists(staying)).exclude(Exists(parts)).count()


def _attempts_delete(keys: list) -> int:
    unnamed = _unnamed(keys, besides=Message.objects.none())
    return Attempt.objects.filter(pk__in=unnamed).exclude(state=Attempt.State.IN_FLIGHT).delete()[0]


def _unnamed(keys: list, *, besides: models.QuerySet) -> list:
    """Those that no message names, besides those that go themselves."""
    going = set(besides.filter(attempt__in=keys).values_list("pk", flat=True))
    naming = Message.objects.filter(attempt__in=keys).values_list("attempt", "pk")
    named = {attempt for attempt, message in naming if message not in going}
    parts = Part.objects.filter(attempt__in=keys).exclude(message__in=besides)
    named.update(parts.values_list("attempt", flat=True))
    return [key for key in keys if key not in named]


LEASES_OVER = LeaseStep.objects.filter(lease__state__in=(LeaseState.FREED, LeaseState.CANCELED))
RELAYS_OVER = RelayRun.objects.filter(running=False, ended_at__isnull=False)


def _timed_rule(name: str, rows: models.QuerySet, field: str, days: Callable[[Keep], int | None]) -> Rule:
    page, delete = partial(_timed, rows, field), partial(_delete_of, rows)
    return Rule(name, days, page, delete, partial(_count_of, rows, field))


def _events_days(keep: Keep) -> int | None:
    return keep.events_days


def _audit_days(keep: Keep) -> int | None:
    """The budgets of keys look back a day."""
    return keep.events_days and max(keep.events_days, 2)


def _messages_days(keep: Keep) -> int | None:
    return keep.messages_days


def _strangers_days(keep: Keep) -> int | None:
    """Where all messages go as soon there is nothing more to do."""
    if keep.strangers_days is None or keep.messages_days is None:
        return keep.strangers_days
    return keep.strangers_days if keep.strangers_days < keep.messages_days else None


# In their order: attempts are free when the messages are gone. Another table is one line more.
RULES = (
    Rule("events", _events_days, _events_page, partial(_delete_of, Event.objects.all()), _events_count),
    _timed_rule("audit", AuditEntry.objects.all(), "created_at", _audit_days),
    Rule("messages", _messages_days, _messages_page, _messages_delete, _messages_count),
    Rule("messages of strangers", _strangers_days, _strangers_page, _strangers_delete, _strangers_count),
    Rule("attempts", _messages_days, _attempts_page, _attempts_delete, _attempts_count),
    _timed_rule("steps of leases that are over", LEASES_OVER, "created_at", _messages_days),
    _timed_rule("steps of federations", Step.objects.all(), "created_at", _messages_days),
    _timed_rule("relays that have ended", RELAYS_OVER, "ended_at", _messages_days),
)


def _due(keep: Keep) -> Iterator[tuple[Rule, datetime]]:
    now = timezone.now()
    for rule in RULES:
        if (days := rule.days(keep)) is not None:
            yield rule, now - timedelta(days=days)


async def prune(database: Database, keep: Keep) -> dict[str, int]:
    """Deletes what is older than it is kept, in the node's own process; how many rows of each kind."""
    deleted = {}
    for rule, before in _due(keep):
        deleted[rule.name] = 0
        page: Page | None = Page([], None)
        while page:
            page = await database.read(partial(rule.page, before, page.place))
            if page.keys:
                deleted[rule.name] += await database.write(partial(rule.delete, page.keys))
            page = page if page.place is not None else None
    return deleted


def prune_here(keep: Keep) -> Iterator[tuple[str, int, bool]]:
    """The same in a process of its own, beside a node or not: after each batch the rule's name, how many rows so far, and
    whether that is all.
    """
    for rule, before in _due(keep):
        count = 0
        page: Page | None = Page([], None)
        while page:
            page = rule.page(before, page.place)
            count += _delete_batch(rule, page.keys)
            yield rule.name, count, page.place is None
            page = page if page.place is not None else None


def count_here(keep: Keep) -> Iterator[tuple[str, int]]:
    """The name of each rule, and how many rows it would delete now."""
    for rule, before in _due(keep):
        yield rule.name, rule.count(before)


def _delete_batch(rule: Rule, keys: list) -> int:
    if not keys:
        return 0
    with transaction.atomic():
        return rule.delete(keys)
