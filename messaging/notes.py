"""What an API call wants stored with what it causes: a row of its own for each message or payment, in their transaction.

The call sets `noter` in its own context; the outbox and the payer of invoices ask it there. Where no call is behind
something, nothing is noted.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from django.db import models, transaction

from messaging.database import insert_new
from messaging.models import Message

Result = TypeVar("Result")


class Note(models.Model):
    """A row that a call stores. `committed` is set when its transaction is."""

    committed = False

    class Meta:
        abstract = True


class Noter(Protocol):
    def note(self, *, item_id: UUID, peer: str, amount_msat: int) -> Note:
        """A new row about a message, or a payment, that is being stored."""

    def goes_on(self, work: asyncio.Future[Any]) -> None:
        """This work of the call, which may store something, goes on to its end though the caller leaves."""


noter: ContextVar[Noter | None] = ContextVar("noter", default=None)


async def to_its_end(work: Awaitable[Result]) -> Result:
    """Awaits what is not given up when its caller leaves: what is stored without it has to be sent, and counts."""
    task = asyncio.ensure_future(work)
    if current := noter.get():
        current.goes_on(task)
    return await asyncio.shield(task)


def notes_of(messages: Iterable[Message]) -> list[Note]:
    """Of the call in whose context this is asked."""
    current = noter.get()
    if current is None:
        return []
    return [
        current.note(item_id=message.message_id, peer=message.pubkey, amount_msat=message.amount_msat)
        for message in messages
    ]


def store(rows: list[Note]) -> None:
    """Part of the caller's transaction. The rows are of one model."""
    if rows:
        insert_new(type(rows[0]), rows)
        transaction.on_commit(partial(_mark, rows))


def _mark(rows: list[Note]) -> None:
    for row in rows:
        row.committed = True
