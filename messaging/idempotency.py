"""The same key and request give the same answer, for a day, and nothing is done twice."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from django.db import IntegrityError

from messaging import clock, notes
from messaging.database import Database
from messaging.models import IdempotencyKey

LIFETIME = timedelta(hours=24)


class KeyReused(Exception):
    """The key was given before, with another request."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A caller's key, and the hash of what is asked for under it."""

    caller: str
    key: str
    request_hash: bytes

    def row(self, message_id: UUID, further: Iterable[UUID] = ()) -> IdempotencyKey:
        """To be stored in the transaction that stores the message, or messages."""
        return IdempotencyKey(
            caller=self.caller,
            key=self.key,
            request_hash=self.request_hash,
            message_id=message_id,
            created_at=clock.now(),
            further_ids=[str(identity) for identity in further],
        )


class Claims:
    """Within one process a second call waits for the first; across restarts the table answers. All that stores keys shares
    one of these.
    """

    def __init__(self, database: Database):
        self._database = database
        self._under_way: dict[tuple[str, str], tuple[bytes, asyncio.Future[UUID]]] = {}

    async def answer(self, claim: Claim) -> UUID | None:
        """The id that this was answered with before, if it was. Raises KeyReused."""
        under_way = self._under_way.get((claim.caller, claim.key))
        return await _shared(claim, *under_way) if under_way else await self._stored_answer(claim)

    async def all_answers(self, claim: Claim) -> list[UUID] | None:
        """All the ids that this was answered with before, if it was. Raises KeyReused."""
        first = await self.answer(claim)
        if first is None:
            return None
        found = await self._database.read(lambda: find(claim))
        return [first, *(UUID(text) for text in (found.further_ids if found else ()))]

    async def once(
        self, claim: Claim, make: Callable[[], Awaitable[UUID]], *, prepare: Callable[[], None] | None = None
    ) -> UUID:
        """The id that `make` answered when this was first asked for; `prepare` may read the database before it. Raises
        KeyReused, and what these two raise.
        """
        name = (claim.caller, claim.key)
        if under_way := self._under_way.get(name):
            return await _shared(claim, *under_way)
        answer = asyncio.ensure_future(self._answer_or(claim, make, prepare))
        self._under_way[name] = (claim.request_hash, answer)
        answer.add_done_callback(lambda _: self._under_way.pop(name))
        return await notes.to_its_end(answer)

    async def _answer_or(
        self, claim: Claim, make: Callable[[], Awaitable[UUID]], prepare: Callable[[], None] | None
    ) -> UUID:
        return await self._stored_answer(claim, prepare) or await make()

    async def _stored_answer(self, claim: Claim, otherwise: Callable[[], None] | None = None) -> UUID | None:
        """`otherwise` is done in the same job: another one would double the time of a call."""
        found = await self._database.read(partial(_find_or, claim, otherwise))
        if found is None:
            return None
        _same_request(claim, bytes(found.request_hash))
        return found.message_id


async def _shared(claim: Claim, request_hash: bytes, answer: asyncio.Future[UUID]) -> UUID:
    """The answer of a call that is under way."""
    _same_request(claim, request_hash)
    return await asyncio.shield(answer)


def find(claim: Claim) -> IdempotencyKey | None:
    alive = clock.now() - LIFETIME
    return IdempotencyKey.objects.filter(caller=claim.caller, key=claim.key, created_at__gte=alive).first()


def _find_or(claim: Claim, otherwise: Callable[[], None] | None) -> IdempotencyKey | None:
    found = find(claim)
    if found is None and otherwise:
        otherwise()
    return found


def store(rows: list[IdempotencyKey]) -> None:
    """Part of the caller's transaction. Keys that have outlived their day make room. Raises KeyReused when one was stored
    meanwhile.
    """
    if rows:
        IdempotencyKey.objects.filter(created_at__lt=clock.now() - LIFETIME).delete()
        try:
            IdempotencyKey.objects.bulk_create(rows)
        except IntegrityError:
            raise KeyReused(rows[0].key) from None


def _same_request(claim: Claim, request_hash: bytes) -> None:
    if claim.request_hash != request_hash:
        raise KeyReused(claim.key)
