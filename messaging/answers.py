"""Messages that nobody at this node asked for: answers to other nodes, and what is told of something sold.

Strangers cause them, and keys cost nothing. So each must have been paid for before, by whoever causes it: an answer by the
share of the message that it answers, what is told of a sale by the sale's price. `admit` is the only way by which such a
message is stored, and all that a message may cost (amount and fee limit, of its one payment) is taken off what pays for
it in the same transaction; when the message has ended, `give_back` returns what it did not cost. What cannot be paid
that way is not sent.

Each is one payment of 1 sat, whose fee limit is the rest, but never more than the configuration's.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from django.db import transaction
from django.db.models import F, Sum
from django.db.models.functions import Coalesce

from lightning.hints import HopHint
from lightning.keysend import ROOM_ONE_HOP_BYTES
from messaging import clock, income, metrics, peers
from messaging.budget import WINDOW
from messaging.database import insert_new
from messaging.metrics import NO_RECIPIENT, OVER_BUDGET, TOO_LONG, UNPAID
from messaging.models import Account, Direction, Event, Message, Origin, costing
from messaging.packing import MIN_AMOUNT_MSAT, record_bytes
from messaging.registry import on_failed

ATTEMPTS, ATTEMPTS_OF_KNOWN = 1, 2
# Beyond these a body is not compressed to see whether it fits.
MAX_TRIED_BYTES = 8_192


@dataclass(frozen=True, kw_only=True)
class AnswerTerms:
    """What holds for all unasked messages: the usual fee limit of an amount (both msat), the largest record that one
    payment carries, the hints that travel with it, and by how much answers may exceed what others have paid in 24 hours.
    """

    fee_limit_msat: Callable[[int], int] = lambda amount_msat: 0
    room_bytes: int = ROOM_ONE_HOP_BYTES
    own_hints: Callable[[], tuple[HopHint, ...]] = tuple
    allowance_msat: int = 0


@dataclass
class Admitted:
    """What was stored and is to be sent after the commit; what was not, by service and reason; what follows from that."""

    messages: list[Message] = field(default_factory=list)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)


def paid_from(message: Message, account: str) -> Message:
    """The message, which is told of a sale, on account of it (`pay_in`)."""
    message.origin, message.account = Origin.SALE, account
    return message


def pay_in(account: str, paid_msat: int) -> None:
    """So much was paid in all for what this account is of. Part of the caller's transaction; may be repeated."""
    if not Account.objects.filter(pk=account).update(paid_msat=paid_msat):
        Account.objects.create(pk=account, paid_msat=paid_msat)


def admit(messages: Iterable[Message], terms: AnswerTerms, *, item: Message | None = None) -> Admitted:
    """Stores what is paid for, in the caller's transaction. `item` is the received message that pays for the answers;
    else it is the one that each answers.
    """
    admitted = Admitted()
    sales: list[Message] = []
    answers: list[Message] = []
    for message in messages:
        (sales if message.origin == Origin.SALE and message.account else answers).append(message)
    for payer, group in _by_payer(answers, item):
        _admit_answers(group, payer, terms, admitted)
    for message in sales:
        _admit_sale(message, terms, admitted)
    known = peers.are_known({message.pubkey for message in admitted.messages})
    for message in admitted.messages:
        message.max_attempts = ATTEMPTS_OF_KNOWN if message.pubkey in known else ATTEMPTS
    insert_new(Message, admitted.messages)
    if admitted.refused:
        transaction.on_commit(partial(metrics.count_answers_dropped, admitted.refused), robust=True)
    return admitted


def give_back(message: Message) -> None:
    """An unasked message has ended: what it did not cost may be spent on others."""
    left_msat = message.amount_msat + (message.fee_limit_msat or 0) - message.cost_msat
    if left_msat <= 0:
        return
    if message.origin == Origin.SALE:
        Account.objects.filter(pk=message.account or "").update(spent_msat=F("spent_msat") - left_msat)
    else:
        Message.objects.filter(pk=message.paid_by or 0).update(answers_msat=F("answers_msat") - left_msat)


@dataclass(frozen=True)
class AnswerBudget:
    """What answers may cost in 24 hours, and what of it they have cost or may cost."""

    limit_msat: int
    used_msat: int


def budget(allowance_msat: int) -> AnswerBudget:
    now = clock.now()
    spent = costing(Origin.ANSWER).filter(created_at__gte=now - WINDOW).aggregate(sum=Sum("cost_msat"))["sum"]
    return AnswerBudget(income.paid_msat(now) + allowance_msat, spent or 0)


def _by_payer(answers: list[Message], item: Message | None) -> list[tuple[Message | None, list[Message]]]:
    if item is not None:
        return [(item, answers)] if answers else []
    groups: dict[int | None, tuple[Message | None, list[Message]]] = {}
    for message in answers:
        payer = _answered(message)
        groups.setdefault(payer.pk if payer else None, (payer, []))[1].append(message)
    return list(groups.values())


def _answered(message: Message) -> Message | None:
    """The received message that this one answers."""
    if not message.pubkey or message.reply_to is None:
        return None
    return Message.objects.filter(
        direction=Direction.IN, pubkey=message.pubkey, message_id=message.reply_to
    ).first()


def _admit_answers(
    answers: list[Message], payer: Message | None, terms: AnswerTerms, admitted: Admitted
) -> None:
    sendable = [message for message in answers if _is_sendable(message, terms, admitted)]
    left_msat = payer.amount_msat - (payer.answers_msat or 0) if payer else 0
    paid = sendable[: max(0, left_msat) // MIN_AMOUNT_MSAT]
    for message in sendable[len(paid) :]:
        _refuse(message, UNPAID, admitted)
    if not paid or payer is None:
        return
    fee_limit_msat = (left_msat - len(paid) * MIN_AMOUNT_MSAT) // len(paid)
    found = budget(terms.allowance_msat)
    free_msat = found.limit_msat - found.used_msat
    for message in paid:
        limit_msat = min(
            fee_limit_msat, terms.fee_limit_msat(MIN_AMOUNT_MSAT), max(0, free_msat - MIN_AMOUNT_MSAT)
        )
        cost_msat = MIN_AMOUNT_MSAT + limit_msat
        if cost_msat > free_msat:
            _refuse(message, OVER_BUDGET, admitted)
        elif not _take_from_item(payer, cost_msat):
            _refuse(message, UNPAID, admitted)
        else:
            free_msat -= cost_msat
            message.origin, message.account, message.paid_by = Origin.ANSWER, None, payer.pk
            _price(message, limit_msat, admitted)


def _admit_sale(message: Message, terms: AnswerTerms, admitted: Admitted) -> None:
    if not _is_sendable(message, terms, admitted):
        return
    account = Account.objects.filter(pk=message.account).first()
    left_msat = account.paid_msat - account.spent_msat if account else 0
    # Half of what is left: of the same sale there is more to tell later.
    limit_msat = min(max(0, left_msat // 2 - MIN_AMOUNT_MSAT), terms.fee_limit_msat(MIN_AMOUNT_MSAT))
    if not _take_from_account(message.account or "", MIN_AMOUNT_MSAT + limit_msat):
        _refuse(message, UNPAID, admitted)
        return
    message.paid_by = None
    _price(message, limit_msat, admitted)


def _take_from_item(item: Message, msat: int) -> bool:
    spent = Coalesce("answers_msat", 0)
    rows = Message.objects.filter(pk=item.pk, direction=Direction.IN, amount_msat__gte=spent + msat)
    return bool(rows.update(answers_msat=spent + msat))


def _take_from_account(name: str, msat: int) -> bool:
    rows = Account.objects.filter(pk=name, paid_msat__gte=F("spent_msat") + msat)
    return bool(rows.update(spent_msat=F("spent_msat") + msat))


def _price(message: Message, fee_limit_msat: int, admitted: Admitted) -> None:
    message.amount_msat, message.fee_limit_msat = MIN_AMOUNT_MSAT, fee_limit_msat
    message.cost_msat = MIN_AMOUNT_MSAT + fee_limit_msat
    admitted.messages.append(message)


def _is_sendable(message: Message, terms: AnswerTerms, admitted: Admitted) -> bool:
    if not message.pubkey:
        _refuse(message, NO_RECIPIENT, admitted)
    elif not _fits(message, terms):
        _refuse(message, TOO_LONG, admitted)
    else:
        return True
    return False


def _fits(message: Message, terms: AnswerTerms) -> bool:
    """Whether one payment carries it, over a route that is short enough."""
    if len(message.body) > MAX_TRIED_BYTES:
        return False
    return record_bytes(message, hints=terms.own_hints()) <= terms.room_bytes


def _refuse(message: Message, reason: str, admitted: Admitted) -> None:
    """It is not stored: to its service that is the same as one that could not be delivered."""
    admitted.refused[message.service, reason] += 1
    if hook := on_failed(message.service):
        admitted.events += hook(message, _CAUSES[reason])


_CAUSES = {
    UNPAID: "what was paid does not pay for the answer",
    TOO_LONG: "too long for one payment",
    OVER_BUDGET: "the budget of answers is used up",
    NO_RECIPIENT: "nobody to answer",
}
