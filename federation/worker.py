"""The federation's worker: ends what is over, to the second, and carries out what the operator wishes in the admin."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.utils import timezone

from federation import steps
from federation.models import Wish
from federation.settings import FederationSettings
from messaging import events
from messaging.models import Message, Origin
from messaging.outgoing import store_all
from messaging.registry import Reaction
from messaging.workers import WorkerContext

logger = logging.getLogger("federation.worker")

LOOK_SECONDS = 1.0


async def run(context: WorkerContext) -> None:
    """A database that is away passes: what could not be done is done later."""
    while True:
        try:
            seconds = await look(context)
        except Exception:
            logger.exception("the federation could not be looked after; trying again")
            seconds = LOOK_SECONDS
        await asyncio.sleep(seconds)


async def look(context: WorkerContext) -> float:
    """Does what is due; after how many seconds to look again."""
    next_end, wishes = await context.database.read(_due)
    now = context.clock.now()
    if next_end and next_end <= now:
        await context.database.write(partial(_expire, now, context))
        return 0.0
    for wish_key in wishes:
        context.send_stored(await context.database.write(partial(carry_out, wish_key, context)))
    return min(LOOK_SECONDS, (next_end - now).total_seconds()) if next_end else LOOK_SECONDS


def _due() -> tuple[datetime | None, list[int]]:
    wishes = Wish.objects.filter(done_at__isnull=True).order_by("pk")
    return steps.next_end(), list(wishes.values_list("pk", flat=True)[:100])


def _expire(now: datetime, context: WorkerContext) -> None:
    events.append(steps.expire(now), published=context.published)


def give_up(cause: str) -> int:
    """What is asked for and not done yet is not done any more; of how many actions that is so."""
    waiting = Wish.objects.filter(done_at__isnull=True)
    return waiting.update(done_at=timezone.now(), outcome=f"not done: {cause}"[:500])


def carry_out(wish_key: int, context: WorkerContext) -> list[Message]:
    """One wish, with all that follows from it, in the caller's transaction; messages to send after its commit."""
    wish = Wish.objects.get(pk=wish_key)
    if wish.done_at:
        return []
    try:
        reaction = _STEPS[wish.action](wish.pubkey, context.settings)
        wish.outcome = "done"
    except steps.NotPossible as error:
        reaction = Reaction()
        wish.outcome = f"not done: the node {error}"
    wish.done_at = timezone.now()
    wish.save()
    for message in reaction.answers:
        # The operator wants it, whatever the other node has paid.
        message.origin = Origin.CALLER
    sending = store_all(reaction.answers, context)
    events.append(reaction.events, published=context.published)
    return sending


_STEPS: dict[str, Callable[[str, FederationSettings], Reaction]] = {
    Wish.Action.ACCEPT: steps.accept_waiting,
    Wish.Action.REFUSE: steps.refuse_waiting,
    Wish.Action.LEAVE: steps.leave_by_operator,
}
