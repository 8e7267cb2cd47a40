"""What this node takes from others, by the operator's policy for each service: steps of the caller's transaction.

The policy is read anew for each batch, so that what the admin changes, in whatever process, holds at once. What is
refused is counted in the transaction that notes its payment as handled: the same payment told again counts nothing.
Counters are bounded: refusals by service and cause, and for peers that are stored anyway; quotas for what was taken, for
an hour.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from uuid import UUID

from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils import timezone

from messaging import clock, income, peers
from messaging.database import insert_new
from messaging.models import (
    Direction,
    InboundPolicy,
    InboundUse,
    Message,
    Peer,
    Refused,
    asked_for,
    named,
)
from messaging.registry import ANSWERS, is_answer

Cause = Refused.Cause

# No sixty minutes see more than a quota: an hour is counted in whole steps, and the one that has begun.
STEP_SECONDS = 300
STEPS = 12
ALL, STRANGERS = "*", "* strangers"
# Answers that pass whatever the policy says: of one peer and service in an hour, and to one message.
MAX_FREE_ANSWERS = 100
MAX_FREE_ANSWERS_TO_ONE = 4


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Of one service: the least that a message pays (sat), whether its sender must be known, and quotas of one peer and
    in all (messages, bytes of their bodies). 0: no limit.
    """

    # The names are those of the configuration and of InboundPolicy.

    min_amount_sat: int = 0
    only_known: bool = False
    peer_messages_per_hour: int = 0
    peer_bytes_per_hour: int = 0
    all_messages_per_hour: int = 0
    all_bytes_per_hour: int = 0

    @property
    def has_quota_of_peer(self) -> bool:
        return bool(self.peer_messages_per_hour or self.peer_bytes_per_hour)

    @property
    def has_quota_in_all(self) -> bool:
        return bool(self.all_messages_per_hour or self.all_bytes_per_hour)

    @property
    def has_quota(self) -> bool:
        return self.has_quota_of_peer or self.has_quota_in_all


RULES = tuple(field.name for field in fields(Rules))


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is judged: a message, or a part of one, with its sender (hex; empty when it names none). Of a part the body is
    not known.
    """

    sender: str
    service: str
    reply_to: UUID | None
    amount_msat: int
    size_bytes: int
    body: bytes | None = None


def tell_configured(configured: Mapping[str, Rules]) -> None:
    """Gives each service a row for the admin, with what the configuration says."""
    InboundPolicy.objects.bulk_create(
        [InboundPolicy(service=service, configured=asdict(rules)) for service, rules in configured.items()],
        update_conflicts=True,
        unique_fields=["service"],
        update_fields=["configured"],
    )


def in_force(set_here: Mapping[str, int | bool | None], configured: Rules) -> Rules:
    """What the configuration says, and the admin where it says something else (what is not None)."""
    here = {name: set_here[name] for name in RULES if set_here[name] is not None}
    return Rules(**asdict(configured) | here)


def refused_totals() -> dict[tuple[str, str], int]:
    """How many messages, and parts of long ones, were refused so far, by service and cause."""
    return {(row.service, row.cause): row.count for row in Refused.objects.all()}


def forget_old_uses(now_seconds: float) -> None:
    InboundUse.objects.filter(last_step__lt=_step(now_seconds) - STEPS).delete()


class Judge:
    """Judges one batch, in its order. What it admits counts for the quotas; `store` writes all counts down."""

    def __init__(
        self,
        configured: Mapping[str, Rules],
        batch: Iterable[Item],
        now_seconds: float,
        *,
        strangers_bytes_per_hour: int = 0,
    ):
        rows = {row["service"]: row for row in InboundPolicy.objects.values("service", *RULES)}
        self._rules = {
            service: in_force(rows[service], rules) if service in rows else rules
            for service, rules in configured.items()
        }
        batch = list(batch)
        senders = {item.sender for item in batch}
        self._blocked, self._known = peers.blocked_and_known(senders)
        limited = [service for service, rules in self._rules.items() if rules.has_quota]
        self._answered = _Answered({item.reply_to for item in batch if item.reply_to})
        self._uses = _Uses(limited, senders, _step(now_seconds))
        self._strangers = _Strangers(strangers_bytes_per_hour, any_here=not senders <= self._known)
        self._refused: Counter[tuple[str, Cause]] = Counter()
        self._refused_msat: Counter[tuple[str, Cause]] = Counter()
        self._refused_of: Counter[str] = Counter()

    @property
    def strangers_bytes(self) -> int:
        """Of what was admitted: whoever stores it notes them (messaging/income.py)."""
        return self._strangers.taken_bytes

    def admits(self, item: Item) -> bool:
        """A whole message. One that is admitted is counted."""
        cause = self._cause(item)
        if cause:
            return self._refuse(item, cause)
        self._use(item)
        return True

    def admits_part(self, item: Item) -> bool:
        """A part of a message whose amount and size are not known yet: whether its sender may send anything."""
        cause = self._cause_in_sender(item)
        return self._refuse(item, cause) if cause else True

    def admits_beginning(self, item: Item) -> bool:
        """The first part of a message: whether the message will surely be too much."""
        cause = self._cause_in_quota(item)
        return self._refuse(item, cause) if cause and not self._is_free_answer(item) else True

    def store(self) -> Counter[tuple[str, str]]:
        """Writes down what was counted; how many were refused, by service and cause."""
        self._uses.store()
        self._answered.store()
        now = timezone.now()
        for (service, cause), count in self._refused.items():
            amount_msat = self._refused_msat[service, cause]
            row = Refused.objects.filter(service=service, cause=cause)
            if not row.update(
                count=F("count") + count, amount_msat=F("amount_msat") + amount_msat, last_at=now
            ):
                insert_new(
                    Refused, [Refused(service=service, cause=cause, count=count, amount_msat=amount_msat)]
                )
        self._store_of_peers()
        return Counter({(service, cause.value): count for (service, cause), count in self._refused.items()})

    def _store_of_peers(self) -> None:
        """Only of peers that are stored anyway: strangers without end must not make rows without end."""
        if not self._refused_of:
            return
        stored = Peer.objects.filter(pk__in=list(self._refused_of)).values_list("pk", flat=True)
        by_count: dict[int, list[str]] = {}
        for pubkey in stored:
            by_count.setdefault(self._refused_of[pubkey], []).append(pubkey)
        for count, pubkeys in by_count.items():
            Peer.objects.filter(pk__in=pubkeys).update(refused=F("refused") + count)

    def _refuse(self, item: Item, cause: Cause) -> bool:
        self._refused[item.service, cause] += 1
        self._refused_msat[item.service, cause] += item.amount_msat
        if item.sender:
            self._refused_of[item.sender] += 1
        return False

    def _use(self, item: Item) -> None:
        rules = self._rules_of(item)
        if item.sender not in self._known:
            self._strangers.taken_bytes += item.size_bytes
        if rules.has_quota_of_peer:
            self._uses.add(item.service, item.sender, item.size_bytes)
        if rules.has_quota_in_all:
            self._uses.add(item.service, ALL, item.size_bytes)
            if item.sender not in self._known:
                self._uses.add(item.service, STRANGERS, item.size_bytes)

    def _rules_of(self, item: Item) -> Rules:
        return self._rules.get(item.service) or Rules()

    def _cause(self, item: Item) -> Cause | None:
        """Why a whole message is refused."""
        if item.sender in self._blocked:
            return Cause.BLOCKED
        cause = self._cause_but_block(item)
        return cause if cause and not self._is_free_answer(item, count=True) else None

    def _cause_but_block(self, item: Item) -> Cause | None:
        rules = self._rules_of(item)
        if rules.only_known and item.sender not in self._known:
            return Cause.NOT_KNOWN
        if item.amount_msat < rules.min_amount_sat * 1000:
            return Cause.AMOUNT
        return self._cause_in_quota(item)

    def _cause_in_sender(self, item: Item) -> Cause | None:
        if item.sender in self._blocked:
            return Cause.BLOCKED
        stranger = self._rules_of(item).only_known and item.sender not in self._known
        return Cause.NOT_KNOWN if stranger and not self._is_free_answer(item) else None

    def _cause_in_quota(self, item: Item) -> Cause | None:
        rules = self._rules_of(item)
        if rules.has_quota_of_peer:
            messages, size_bytes = self._uses.used(item.service, item.sender)
            if _exceeds(messages + 1, rules.peer_messages_per_hour):
                return Cause.PEER_MESSAGES
            if _exceeds(size_bytes + item.size_bytes, rules.peer_bytes_per_hour):
                return Cause.PEER_BYTES
        if rules.has_quota_in_all and (cause := self._cause_in_all(item, rules)):
            return cause
        stranger = item.sender not in self._known
        return Cause.STRANGERS_BYTES if stranger and self._strangers.exceeded_by(item.size_bytes) else None

    def _cause_in_all(self, item: Item, rules: Rules) -> Cause | None:
        """Keys cost nothing: half of what may come in all is kept for known peers, whatever strangers send."""
        shares = [(ALL, 1)] if item.sender in self._known else [(ALL, 1), (STRANGERS, 2)]
        for of, divisor in shares:
            messages, size_bytes = self._uses.used(item.service, of)
            if _exceeds(messages + 1, -(-rules.all_messages_per_hour // divisor)):
                return Cause.ALL_MESSAGES
            if _exceeds(size_bytes + item.size_bytes, -(-rules.all_bytes_per_hour // divisor)):
                return Cause.ALL_BYTES
        return None

    def _is_free_answer(self, item: Item, *, count: bool = False) -> bool:
        """Whether it is what a message of ours has asked for, from the node that this was sent to."""
        if not item.sender or item.reply_to is None:
            return False
        answers = f"answers of {item.sender}"
        if not self._answered.may_pass(item) or self._uses.used(item.service, answers)[0] >= MAX_FREE_ANSWERS:
            return False
        if count:
            self._answered.note(item)
            self._uses.add(item.service, answers, item.size_bytes)
        return True


@dataclass
class _Asked:
    """A message of ours that may ask for answers, and how many it has let in."""

    key: int
    answers: int
    body: bytes | None = None


_Name = tuple[UUID, str, str]


class _Answered:
    """The messages of ours that a batch answers. Looked up once, and only if it matters: whatever a stranger names there
    must not cost a question each.

    Only what was asked for at this node asks: an answer of its own, such as a refusal, permits nothing.
    """

    def __init__(self, ids: set[UUID]):
        self._ids = ids
        self._ours: dict[_Name, _Asked] | None = None
        self._let_in: Counter[int] = Counter()

    def may_pass(self, item: Item) -> bool:
        """Whether a message of ours, to the sender and of the same service, asks for just this, and for one more."""
        asked = self._asked(item)
        if asked is None or asked.answers >= MAX_FREE_ANSWERS_TO_ONE:
            return False
        if item.service not in ANSWERS:
            return True
        if asked.body is None:
            asked.body = bytes(Message.objects.values_list("body", flat=True).get(pk=asked.key))
        return is_answer(item.service, asked.body, item.body)

    def note(self, item: Item) -> None:
        if asked := self._asked(item):
            asked.answers += 1
            self._let_in[asked.key] += 1

    def store(self) -> None:
        for key, count in self._let_in.items():
            Message.objects.filter(pk=key).update(free_answers=Coalesce("free_answers", 0) + count)

    def _asked(self, item: Item) -> _Asked | None:
        if item.reply_to is None:
            return None
        if self._ours is None:
            self._ours = _sent(self._ids)
        if item.reply_to not in self._ids:
            # A message that became whole answers what its first part said, which came before this batch.
            self._ids = self._ids | {item.reply_to}
            self._ours |= _sent({item.reply_to})
        return self._ours.get((item.reply_to, item.sender, item.service))


def _sent(ids: set[UUID]) -> dict[_Name, _Asked]:
    rows = asked_for(named(Direction.OUT, ids)).values_list(
        "message_id", "pubkey", "service", "pk", "free_answers"
    )
    return {
        (message_id, pubkey, service): _Asked(key, answers or 0)
        for message_id, pubkey, service, key, answers in rows
    }


class _Strangers:
    """How many bytes all strangers together have sent in the last hour, of whatever service, and how many they may."""

    def __init__(self, limit_bytes: int, *, any_here: bool):
        self._limit_bytes = limit_bytes
        self._before_bytes = income.strangers_bytes(clock.now()) if limit_bytes and any_here else 0
        self.taken_bytes = 0

    def exceeded_by(self, size_bytes: int) -> bool:
        return _exceeds(self._before_bytes + self.taken_bytes + size_bytes, self._limit_bytes)


class _Uses:
    """What was taken in the last hour, of those that a batch is about."""

    def __init__(self, services: list[str], senders: set[str], step: int):
        self._now = step
        self._kept: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}
        self._changed: set[tuple[str, str]] = set()
        if services:
            for row in InboundUse.objects.filter(service__in=services, of__in=[*senders, ALL, STRANGERS]):
                self._kept[row.service, row.of] = self._of_this_hour(row)
        self._loaded = {(service, of) for service in services for of in (*senders, ALL, STRANGERS)}

    def _of_this_hour(self, row: InboundUse) -> dict[int, tuple[int, int]]:
        return {
            step: (messages, size_bytes)
            for step, messages, size_bytes in row.steps
            if self._now - STEPS <= step <= self._now
        }

    def _steps(self, service: str, of: str) -> dict[int, tuple[int, int]]:
        key = (service, of)
        if key not in self._loaded:
            row = InboundUse.objects.filter(service=service, of=of).first()
            self._loaded.add(key)
            if row:
                self._kept[key] = self._of_this_hour(row)
        return self._kept.setdefault(key, {})

    def used(self, service: str, of: str) -> tuple[int, int]:
        """Messages and bytes."""
        steps = self._steps(service, of).values()
        return sum(messages for messages, _ in steps), sum(size_bytes for _, size_bytes in steps)

    def add(self, service: str, of: str, size_bytes: int) -> None:
        steps = self._steps(service, of)
        messages, before_bytes = steps.get(self._now, (0, 0))
        steps[self._now] = (messages + 1, before_bytes + size_bytes)
        self._changed.add((service, of))

    def store(self) -> None:
        rows = [
            InboundUse(
                service=service,
                of=of,
                steps=[[step, *counts] for step, counts in sorted(self._kept[service, of].items())],
                last_step=self._now,
            )
            for service, of in sorted(self._changed)
        ]
        InboundUse.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["service", "of"], update_fields=["steps", "last_step"]
        )


def _exceeds(count: int, limit: int) -> bool:
    return bool(limit) and count > limit


def _step(now_seconds: float) -> int:
    return int(now_seconds // STEP_SECONDS)
