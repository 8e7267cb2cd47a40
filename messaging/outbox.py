"""The way out: accepted messages → payments → their ends. One instance a node, in the runimpd process.

Messages that are accepted while a commit is under way are committed, and where they go to the same node and service also
paid, together; nothing ever waits in order to be joined. A node that is away holds up only itself.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

from django.utils import timezone

from lightning import signature
from lightning.carrier import Carrier, Outcome, Shipment, Verdict
from lightning.client import LndError
from messaging import envelope, ledger
from messaging.database import Database
from messaging.events import Published
from messaging.idempotency import Claim, Claims
from messaging.models import Attempt, Direction, IdempotencyKey, Message, State
from messaging.packing import pack
from messaging.traffic import Batch, Limits, Traffic

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 300.0
UNKNOWN_RETRY_SECONDS = 2.0
# After this long an attempt counts only against its own destination: a node that holds payments stops nobody else.
HELD_SECONDS = 60.0


@dataclass(frozen=True)
class Accepted:
    """A new message, who waits for its commit, and the key that it was asked for under."""

    message: Message
    stored: asyncio.Future
    key: IdempotencyKey | None


class Outbox:
    """`accept` answers with the message's id once it is committed. `run` does the work until it is cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        carrier: Carrier,
        own_pubkey: bytes,
        record_numbers: Mapping[str, int],
        limits: Limits,
        expires_seconds: int,
        published: Published,
    ):
        self._database = database
        self._carrier = carrier
        self._own_pubkey = own_pubkey
        self._record_numbers = record_numbers
        self._expires_seconds = expires_seconds
        self._published = published
        self._claims = Claims(database)
        self._accepted: list[Accepted] = []
        self._arrived = asyncio.Event()
        self._settled: list[tuple[Attempt, list[Message], int]] = []
        self._settled_stored: list[asyncio.Future] = []
        self._settling = asyncio.Event()
        self._traffic = Traffic(limits)
        self._tasks: set[asyncio.Task] = set()

    async def answer(self, claim: Claim) -> UUID | None:
        """The id of the message that was accepted under this claim before, if there is one. Raises KeyReused."""
        return await self._claims.answer(claim)

    async def accept(
        self,
        *,
        service: str,
        pubkey: str,
        body: bytes,
        amount_sat: int,
        reply_to: UUID | None,
        claim: Claim | None = None,
    ) -> UUID:
        """Stores a message and sends it. The answer comes after the commit. With a claim: once; raises KeyReused."""
        make = partial(self._accept, claim, service, pubkey, body, amount_sat, reply_to)
        return await (self._claims.once(claim, make) if claim else make())

    async def _accept(
        self,
        claim: Claim | None,
        service: str,
        pubkey: str,
        body: bytes,
        amount_sat: int,
        reply_to: UUID | None,
    ) -> UUID:
        now = timezone.now()
        message = Message(
            message_id=uuid4(),
            direction=Direction.OUT,
            pubkey=pubkey,
            service=service,
            reply_to=reply_to,
            body=body,
            amount_msat=amount_sat * 1000,
            state=State.QUEUED,
            created_at=now,
            updated_at=now,
            expires_at=now + timedelta(seconds=self._expires_seconds),
        )
        stored = asyncio.get_running_loop().create_future()
        self._accepted.append(Accepted(message, stored, claim.row(message.message_id) if claim else None))
        self._arrived.set()
        await stored
        return message.message_id

    async def run(self) -> None:
        """Takes up what an earlier process left, then works until cancelled."""
        await self._take_up()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._accept_forever())
                group.create_task(self._start_forever())
                group.create_task(self._settle_forever())
        finally:
            for task in self._tasks:
                task.cancel()

    def retry_now(self) -> None:
        """lnd is back: what waits for its next try is due."""
        self._traffic.retry_now()

    # accepting

    async def _accept_forever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            accepted, self._accepted = self._accepted, []
            await self._store(accepted)

    async def _store(self, accepted: list[Accepted]) -> None:
        messages = [entry.message for entry in accepted]
        starting = self._start_at_once(messages)
        for attempt, carried in starting:
            self._traffic.occupy(attempt)
        signing = [self._spawn(self._sign(attempt)) for attempt, _ in starting]
        try:
            await self._database.write(
                partial(
                    ledger.store_accepted,
                    messages,
                    [attempt for attempt, _ in starting],
                    [entry.key for entry in accepted if entry.key],
                )
            )
        except Exception as error:
            for task, (attempt, _) in zip(signing, starting):
                task.cancel()
                self._traffic.release(attempt)
            _answer(accepted, error)
            return
        for task, (attempt, carried) in zip(signing, starting):
            self._spawn(self._ship(attempt, carried, task))
        _answer(accepted, None)
        for message in messages:
            if message.state == State.QUEUED:
                self._traffic.wait(message.pubkey, message.pk)

    def _start_at_once(self, messages: list[Message]) -> list[tuple[Attempt, list[Message]]]:
        """Attempts for the messages whose node has nothing before them and room in flight."""
        free = self._traffic.free
        room = {pubkey: self._traffic.room(pubkey) for pubkey in {message.pubkey for message in messages}}
        candidates = [message for message in messages if room[message.pubkey] > 0] if free > 0 else []
        starting = []
        now = timezone.now()
        for load in pack(candidates, safe_room_bytes=self._carrier.safe_room_bytes):
            if free <= 0 or room[load.pubkey] <= 0:
                continue
            free -= 1
            room[load.pubkey] -= 1
            attempt = ledger.attempt_for(load, self._carrier)
            for message in load.messages:
                ledger.take_off(message, attempt, now)
            starting.append((attempt, load.messages))
        return starting

    # starting what waits

    async def _start_forever(self) -> None:
        while True:
            await self._traffic.work.wait()
            self._traffic.work.clear()
            while batch := self._traffic.next_batch():
                await self._start(batch)

    async def _start(self, batch: Batch) -> None:
        try:
            started, left = await self._database.write(
                partial(ledger.start_attempts, batch.keys, self._carrier, most=batch.payments)
            )
        except Exception:
            logger.exception("messages could not be started; they are tried again")
            await asyncio.sleep(FIRST_RETRY_SECONDS)
            started, left = [], batch.keys
        for attempt, messages in started:
            self._traffic.occupy(attempt)
            self._spawn(self._ship(attempt, messages, self._spawn(self._sign(attempt))))
        self._traffic.started(batch, left)

    # on the way

    async def _sign(self, attempt: Attempt) -> bytes:
        message = envelope.signed_bytes(
            recipient=bytes.fromhex(attempt.destination),
            record_number=self._record_numbers[attempt.service],
            packet=bytes(attempt.packet),
        )
        return signature.compact_from_zbase32(await self._carrier.sign(message))

    async def _ship(self, attempt: Attempt, messages: list[Message], signing: asyncio.Task) -> None:
        """Sends an attempt that is stored, and stores its end."""
        held = asyncio.get_running_loop().call_later(HELD_SECONDS, self._traffic.held, attempt)
        try:
            outcome = await self._send(attempt, signing)
            while outcome.verdict in (Verdict.UNKNOWN, Verdict.NEVER_SENT):
                outcome = await self._ask_again(attempt, outcome)
            await self._finish(attempt, messages, outcome)
        finally:
            held.cancel()
            self._traffic.release(attempt)

    async def _send(self, attempt: Attempt, signing: asyncio.Task) -> Outcome:
        try:
            compact = await signing
        except LndError as error:
            # lnd never heard of this attempt, so another one is safe.
            return Outcome(verdict=Verdict.PASSING, cause=str(error))
        return await self._carrier.send(self._shipment(attempt, compact))

    async def _ask_again(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        if outcome.verdict is Verdict.UNKNOWN:
            logger.debug("payment's end unknown, asking again", extra={"cause": outcome.cause})
            await asyncio.sleep(UNKNOWN_RETRY_SECONDS * random.uniform(0.8, 1.2))
            return await self._carrier.outcome(bytes(attempt.secret))
        try:
            compact = await self._sign(attempt)
        except LndError as error:
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        return await self._carrier.send(self._shipment(attempt, compact))

    def _shipment(self, attempt: Attempt, compact: bytes) -> Shipment:
        return Shipment(
            destination=bytes.fromhex(attempt.destination),
            record_number=self._record_numbers[attempt.service],
            record=envelope.encode_record(
                sender=self._own_pubkey, compact_signature=compact, packet=bytes(attempt.packet)
            ),
            amount_msat=attempt.amount_msat,
            secret=bytes(attempt.secret),
        )

    async def _finish(self, attempt: Attempt, messages: list[Message], outcome: Outcome) -> None:
        ids = [str(message.message_id) for message in messages]
        logger.info("attempt ended", extra={"verdict": outcome.verdict.value, "cause": outcome.cause, "messages": ids})
        if outcome.verdict is Verdict.SETTLED:
            stored = asyncio.get_running_loop().create_future()
            self._settled.append((attempt, messages, outcome.fee_msat))
            self._settled_stored.append(stored)
            self._settling.set()
            await stored
            return
        waiting = await self._write_surely(partial(self._setback(outcome, messages), attempt, messages))
        for message in waiting or ():
            self._traffic.wait(message.pubkey, message.pk, seconds=_seconds_until(message.next_try_at))

    async def _settle_forever(self) -> None:
        """All that settles while a commit is under way is written by the next."""
        while True:
            await self._settling.wait()
            self._settling.clear()
            ended, self._settled = self._settled, []
            stored, self._settled_stored = self._settled_stored, []
            await self._write_surely(partial(ledger.settle, ended, published=self._published))
            for future in stored:
                if not future.done():
                    future.set_result(None)

    async def _write_surely(self, step: Callable):
        """The end of a payment must not be forgotten: a full disk or a locked database passes."""
        while True:
            try:
                return await self._database.write(step)
            except Exception:
                logger.exception("the end of an attempt could not be stored; trying again")
                await asyncio.sleep(UNKNOWN_RETRY_SECONDS)

    def _setback(self, outcome: Outcome, messages: list[Message]) -> Callable:
        """What becomes of messages whose attempt failed."""
        if outcome.verdict is Verdict.FINAL and len(messages) == 1:
            return partial(ledger.fail, cause=outcome.cause, published=self._published)
        # In company one message may be to blame for all: each is tried again by itself.
        return partial(
            ledger.retry,
            cause=outcome.cause,
            delay_seconds=0.0 if outcome.verdict is Verdict.FINAL else backoff_seconds(messages[0].attempts),
            alone=len(messages) > 1,
            published=self._published,
        )

    # after a start

    async def _take_up(self) -> None:
        unfinished = await self._database.read(ledger.unfinished_attempts)
        # Both are read before anything moves: a message whose attempt fails now would be found here, and wait twice.
        waiting = await self._database.read(ledger.waiting_messages)
        for attempt, messages in unfinished:
            self._traffic.occupy(attempt)
            self._spawn(self._resume(attempt, messages))
        for key, pubkey, next_try_at in waiting:
            self._traffic.wait(pubkey, key, seconds=_seconds_until(next_try_at) if next_try_at else None)

    async def _resume(self, attempt: Attempt, messages: list[Message]) -> None:
        """Asks lnd what became of an attempt that an earlier process left; its secret stays the same."""
        try:
            outcome = await self._carrier.outcome(bytes(attempt.secret))
            while outcome.verdict in (Verdict.UNKNOWN, Verdict.NEVER_SENT):
                outcome = await self._ask_again(attempt, outcome)
            await self._finish(attempt, messages, outcome)
        finally:
            self._traffic.release(attempt)

    def _spawn(self, coroutine) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, LndError):
            logger.error("outbox task failed", exc_info=error)


def _seconds_until(moment: datetime) -> float:
    return (moment - timezone.now()).total_seconds()


def backoff_seconds(attempts: int) -> float:
    """Exponential, with jitter so that many messages do not come back at the same instant."""
    base = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 16))
    return base * random.uniform(0.75, 1.25)


def _answer(accepted: list[Accepted], error: Exception | None) -> None:
    for entry in accepted:
        if entry.stored.done():
            continue
        if error is None:
            entry.stored.set_result(None)
        else:
            entry.stored.set_exception(error)
