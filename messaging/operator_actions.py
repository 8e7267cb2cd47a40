"""What operators ask for in the admin about messages. The admin may run in another process than the node: it stores what
is asked for, which the outbox carries out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from django.utils import timezone

from messaging.abandoned import GivenUp, NotPossibleError
from messaging.database import Database
from messaging.models import MessageAction

logger = logging.getLogger("messaging.operator_actions")

LOOK_SECONDS = 2.0
AT_ONCE = 100


async def carry_out_forever(database: Database, give_up: Callable[..., Awaitable[GivenUp]]) -> None:
    """Carries out what is asked for, until cancelled. `give_up` is the outbox's."""
    while True:
        try:
            for action in await database.read(_open_actions):
                await _carry_out(action, database, give_up)
        except Exception:
            logger.exception("what operators ask for could not be done; trying again")
        await asyncio.sleep(LOOK_SECONDS)


def drop(cause: str) -> int:
    """What is asked for and not done yet is not done any more; of how many actions that is so."""
    waiting = MessageAction.objects.filter(done_at__isnull=True)
    return waiting.update(done_at=timezone.now(), outcome=f"not done: {cause}"[:500])


async def _carry_out(
    action: MessageAction, database: Database, give_up: Callable[..., Awaitable[GivenUp]]
) -> None:
    try:
        await give_up(action.message.message_id, then=partial(_note_done, action.pk))
    except NotPossibleError as error:
        await database.write(partial(_note_outcome, action.pk, f"not done: {error}"))


def _open_actions() -> list[MessageAction]:
    waiting = MessageAction.objects.filter(done_at__isnull=True).select_related("message")
    return list(waiting.defer("message__body").order_by("pk")[:AT_ONCE])


def _note_done(key: int, given_up: GivenUp) -> None:
    paid_msat = given_up.may_be_paid_msat
    _note_outcome(key, "done" + (f"; lnd may still pay {paid_msat / 1000:g} sat" if paid_msat else ""))


def _note_outcome(key: int, outcome: str) -> None:
    MessageAction.objects.filter(pk=key).update(done_at=timezone.now(), outcome=outcome[:500])
