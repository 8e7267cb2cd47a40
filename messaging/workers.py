"""What a service does of its own accord, in the runimpd process: its worker, a row of registry.WORKERS."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lightning.client import LndClient
from messaging.answers import AnswerTerms
from messaging.clock import Clock
from messaging.database import Database
from messaging.events import Published
from messaging.models import Message
from messaging.registry import Service

logger = logging.getLogger("messaging.workers")

AGAIN_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """What a worker works with.

    `database.write` its steps; append events in them with `published`. Messages: stored in a step by
    `messaging.outgoing.store_all(messages, context)`, and those that it returns given to `send_stored` after the commit.
    `await postage_sat(pubkey, service)` is what a message carries that wants an answer. `clock.now()` is the time by which
    things end. `payer` pays invoices (invoices.paying.Payer). `settings` are those of the service.
    """

    database: Database
    clock: Clock
    published: Published
    send_stored: Callable[[Iterable[Message]], None]
    cost_msat: Callable[[int, int], int]
    answer_terms: AnswerTerms
    postage_sat: Callable[[str, str], Awaitable[int]]
    client: LndClient
    payer: Any
    settings: Any


async def run_forever(service: Service, context: WorkerContext) -> None:
    """Runs a service's worker, if it has one, until cancelled. One that fails is started again: it must not end the
    node.
    """
    if service.worker is None:
        return
    while True:
        try:
            await service.worker(context)
            logger.error("the worker of %s has ended; starting it again", service.service_type)
        except Exception:
            logger.exception("the worker of %s failed; starting it again", service.service_type)
        await asyncio.sleep(AGAIN_SECONDS)
