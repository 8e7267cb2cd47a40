"""The way out: accepted messages → payments → their ends. One instance a node, in the runimpd process.

Messages that are accepted while a commit is under way are committed, and where they go to the same node and service also
paid, together; nothing ever waits in order to be joined. A node that is away holds up only itself.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from django.db import DataError, IntegrityError

from lightning.carrier import Carrier, Outcome, Verdict
from lightning.client import LndError
from lightning.hints import HopHint
from messaging import (
    abandoned,
    clock,
    divided,
    ledger,
    metrics,
    notes,
    operator_actions,
    preimages,
    reachability,
    suspected,
    tracing,
)
from messaging.abandoned import GivenUp
from messaging.answer_queue import AnswerQueue, Waiting
from messaging.answers import ATTEMPTS
from messaging.budget import SpendingLimit
from messaging.database import Database
from messaging.events import Published
from messaging.hints import HintBook
from messaging.idempotency import Claim, Claims, KeyReused
from messaging.ledger import Carried
from messaging.models import Attempt, IdempotencyKey, Message, Origin, Part, State
from messaging.orphans import LOOK_SECONDS, Orphans
from messaging.outgoing import new_message
from messaging.packing import Undividable, divide, record_bytes
from messaging.preimages import Preimages
from messaging.reachability import Reachability
from messaging.rooms import Rooms
from messaging.shipping import ServiceGone, Shipper
from messaging.traffic import WHOLE, Batch, Depth, Key, Limits, Traffic
from messaging.ways import Ways, too_far

logger = logging.getLogger("messaging.outbox")

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 300.0
UNKNOWN_RETRY_SECONDS = 2.0
# After this long an attempt counts only against its own destination: a node that holds payments stops nobody else.
HELD_SECONDS = 60.0
EXPIRE_SECONDS = 10.0
# Before an attempt whose time is over is given up, lnd has to say so often that it knows nothing of it: a call of before
# may still wait inside a slow lnd.
UNHEARD_ANSWERS = 3
# A receiver has room for 64 incomplete messages of one sender; parts that wait for a retry keep theirs open.
MAX_DIVIDED_PER_PEER = 16
EXCHANGED = "lnd was exchanged for another node while the payment was under way: whether it was paid is not known here"
BEGUN = (
    "lnd was exchanged for another node while the message's parts were under way, and all must come from one"
)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Accepted:
    """A new message, who waits for its commit, the key that it was asked for under, and what the call notes."""

    message: Message
    stored: asyncio.Future[None]
    key: IdempotencyKey | None
    noted: list[notes.Note]
    by: str


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
        hints: HintBook,
        own_hints: Callable[[], tuple[HopHint, ...]],
        budget: SpendingLimit,
        claims: Claims,
        preimages: Preimages,
        unproven_hints_per_hour: int = 0,
    ):
        self._database = database
        self._carrier = carrier
        self.ways = Ways(carrier=carrier, record_numbers=record_numbers, hints=hints, own_hints=own_hints)
        self._rooms = Rooms(self.ways.room_bytes)
        self._payer = ledger.Payer(
            pubkey=own_pubkey.hex(),
            carrier=carrier,
            preimages=preimages,
            hints=own_hints,
            room_to=self._rooms.bytes_to,
        )
        self._shipper = Shipper(
            database=database,
            carrier=carrier,
            own_pubkey=own_pubkey,
            record_numbers=record_numbers,
            hints=hints,
            is_abandoned=self._is_abandoned,
        )
        self._budget = budget
        self._own_pubkey = own_pubkey
        self._expires_seconds = expires_seconds
        self._published = published
        self._claims = claims
        self._accepted: list[Accepted] = []
        self._arrived = asyncio.Event()
        self._settled: list[tuple[Attempt, list[Carried], int]] = []
        self._settled_stored: list[asyncio.Future[None]] = []
        self._settling = asyncio.Event()
        self._traffic = Traffic(limits)
        self._answers = AnswerQueue()
        self._reachability = Reachability(
            carrier=carrier,
            database=database,
            hints=hints,
            unproven_hints_per_hour=unproven_hints_per_hour,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followed: set[UUID] = set()
        # Messages that were given up while a payment of theirs was under way.
        self._abandoned: set[int] = set()

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
        expires_seconds: int | None = None,
        claim: Claim | None = None,
    ) -> UUID:
        """Stores a message and sends it. The answer comes after the commit. With a claim: once; raises KeyReused. Raises
        OverBudget, having stored nothing.
        """
        message = new_message(
            service=service,
            pubkey=pubkey,
            body=body,
            amount_sat=amount_sat,
            reply_to=reply_to,
            expires_seconds=expires_seconds or self._expires_seconds,
            origin=Origin.CALLER,
        )
        make = partial(self._accept, message, claim)
        if claim is None:
            return await notes.to_its_end(make())
        return await self._claims.once(claim, make, prepare=self._guard([message], claim))

    async def _accept(self, message: Message, claim: Claim | None) -> UUID:
        message.cost_msat = self.ways.most_msat(len(message.body), message.amount_msat)
        async with self._budget.reserved(message.cost_msat):
            stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            key = claim.row(message.message_id) if claim else None
            self._accepted.append(
                Accepted(message, stored, key, notes.notes_of([message]), tracing.by_whom())
            )
            self._arrived.set()
            accepted_at = time.perf_counter()
            await stored
            metrics.ACCEPT_SECONDS.observe(time.perf_counter() - accepted_at)
        return message.message_id

    async def accept_all(
        self,
        messages: list[Message],
        *,
        claim: Claim | None = None,
        step: Callable[[], None] | None = None,
    ) -> list[UUID]:
        """Stores all of these (made by `new_message`), or none, in one commit under one reservation, and sends them. The
        ids, after the commit. `step` runs in the same transaction, before: it may change the bodies, but not their
        lengths for more; what it raises is raised here, and nothing is stored. With a claim: once, the same ids again;
        raises KeyReused. Raises OverBudget, having stored nothing.
        """
        make = partial(self._accept_all, messages, claim, step)
        if claim is None:
            await notes.to_its_end(make())
            return [message.message_id for message in messages]
        # What a step asks for wants an answer: after a restore it has to be asked for anew.
        prepare = self._guard(messages, claim) if step is None else None
        first = await self._claims.once(claim, make, prepare=prepare)
        return await self._claims.all_answers(claim) or [first]

    async def _accept_all(
        self, messages: list[Message], claim: Claim | None, step: Callable[[], None] | None
    ) -> UUID:
        for message in messages:
            message.origin = Origin.CALLER
            message.cost_msat = self.ways.most_msat(len(message.body), message.amount_msat)
        first, *further = (message.message_id for message in messages)
        key = claim.row(first, further) if claim else None
        async with self._budget.reserved(sum(message.cost_msat for message in messages)):
            await self._database.write(
                partial(ledger.store_queued, messages, key, step, notes.notes_of(messages))
            )
        self.send_stored(messages)
        return first

    def _guard(self, messages: list[Message], claim: Claim) -> Callable[[], None] | None:
        if not any(map(preimages.may_guard, messages)):
            return None
        return partial(preimages.guard, messages, claim, self._payer.preimages)

    async def all_answers(self, claim: Claim) -> list[UUID] | None:
        """The ids of all messages that were accepted under this claim before, if there are any. Raises KeyReused."""
        return await self._claims.all_answers(claim)

    def send_stored(self, messages: Iterable[Message]) -> None:
        """Sends messages that another step has stored, and committed, as queued."""
        messages = list(messages)
        _note_accepted([(tracing.by_whom(), message) for message in messages])
        for message in messages:
            if message.is_unasked:
                self._answers.wait(_waiting(message))
            else:
                self._traffic.wait(message.pubkey, (message.pk, WHOLE))

    async def run(self) -> None:
        """Takes up what an earlier process left, then works until cancelled."""
        await self._take_up()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._accept_forever())
                group.create_task(self._start_forever())
                group.create_task(self._answer_forever())
                group.create_task(self._settle_forever())
                group.create_task(self._expire_forever())
                group.create_task(
                    suspected.tell_forever(
                        self._database, lambda: self._carrier.suspected, ledger.tell_suspected
                    )
                )
                group.create_task(self._look_for_orphans())
                group.create_task(operator_actions.carry_out_forever(self._database, self.give_up))
        finally:
            for task in self._tasks:
                task.cancel()

    async def give_up(self, message_id: UUID, *, then: Callable[[GivenUp], None] | None = None) -> GivenUp:
        """Gives up a message that was sent under this id, whatever lnd says; `then` runs in the same transaction. Raises
        abandoned.NotPossibleError.
        """
        step = partial(abandoned.give_up, message_id, published=self._published, then=then)
        return await notes.to_its_end(self._give_up(step))

    async def _give_up(self, step: Callable[[], GivenUp]) -> GivenUp:
        given_up = await self._database.write(step)
        if given_up.may_be_paid_msat:
            self._abandoned.add(given_up.key)
        return given_up

    def _is_abandoned(self, carried: Sequence[Carried]) -> bool:
        """Whether one of these was given up: what was not paid yet is not sent."""
        return any(_message(one).pk in self._abandoned for one in carried)

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
        for attempt, _ in starting:
            self._traffic.occupy(attempt)
        signing = [self._spawn(self._shipper.sign(attempt)) for attempt, _ in starting]
        try:
            await self._database.write(
                partial(
                    ledger.store_accepted,
                    messages,
                    [attempt for attempt, _ in starting],
                    [entry.key for entry in accepted if entry.key],
                    [row for entry in accepted for row in entry.noted],
                )
            )
        except Exception as error:
            for task, (attempt, _) in zip(signing, starting, strict=True):
                task.cancel()
                self._traffic.release(attempt)
            if isinstance(error, (IntegrityError, DataError, KeyReused)) and len(accepted) > 1:
                await self._store_one_by_one(accepted)
            else:
                _answer(accepted, error)
            return
        _note_accepted([(entry.by, entry.message) for entry in accepted])
        _note_started(starting)
        for task, (attempt, carried) in zip(signing, starting, strict=True):
            self._spawn(self._ship(attempt, carried, task))
        _answer(accepted, None)
        for message in messages:
            if message.state == State.QUEUED:
                self._traffic.wait(message.pubkey, (message.pk, WHOLE))
                self._look_at_room(message)

    async def _store_one_by_one(self, accepted: list[Accepted]) -> None:
        """One of them cannot be stored: the others are not to fail with it."""
        for entry in accepted:
            ledger.put_back(entry.message)
            await self._store([entry])

    def _start_at_once(self, messages: list[Message]) -> list[tuple[Attempt, list[Carried]]]:
        """Attempts for the messages whose node has nothing before them and room in flight. Long ones, and what comes behind
        them, wait for their turn: their way has to be looked at first.
        """
        free = self._traffic.free
        room = {pubkey: self._traffic.room(pubkey) for pubkey in {message.pubkey for message in messages}}
        for message in messages:
            if ledger.is_long(message, self._carrier):
                room[message.pubkey] = 0
        candidates = [message for message in messages if room[message.pubkey] > 0] if free > 0 else []
        starting: list[tuple[Attempt, list[Carried]]] = []
        now = clock.now()
        for load, hints in ledger.loads_of(candidates, self._payer):
            if ledger.is_long_load(load, self._carrier):
                room[load.pubkey] = 0
            if free <= 0 or room[load.pubkey] <= 0:
                continue
            free -= 1
            room[load.pubkey] -= 1
            attempt = ledger.attempt_for(load, self._payer, hints)
            for one in load.carried:
                if isinstance(one, Message):
                    ledger.take_off(one, attempt, now)
            starting.append((attempt, load.carried))
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
            started = await self._database.write(
                partial(ledger.start_attempts, batch.keys, self._payer, most=batch.payments)
            )
        except Exception:
            logger.exception("messages could not be started; they are tried again")
            await asyncio.sleep(FIRST_RETRY_SECONDS)
            started = ledger.Started([], batch.keys)
        self._ship_all(started)
        if started.long:
            # To look at its way takes an answer of lnd: the other nodes need not wait for that.
            self._traffic.narrow(batch)
            self._spawn(self._start_long(batch, started.long, started.left))
        else:
            self._traffic.started(batch, started.left)

    def _ship_all(self, started: ledger.Started) -> None:
        _note_started(started.attempts)
        for attempt, carried in started.attempts:
            self._traffic.occupy(attempt)
            self._spawn(self._ship(attempt, carried, self._spawn(self._shipper.sign(attempt))))

    def _look_at_room(self, message: Message) -> None:
        """It waits for its turn, and others may come to wait behind it: to know how much fits a payment to their node is
        worth a question. Nothing waits for the answer.
        """
        if self._rooms.is_due(message.pubkey):
            self._spawn(self._rooms.look(message.pubkey, message.service))

    async def _start_long(self, batch: Batch, message: Message, left: list[Key]) -> None:
        """Sends a message that may be too long for one payment, whole or in parts. `left` begins with its key."""
        keys: list[Key] = []
        try:
            keys = await self._keys_of_long(message)
        except Exception:
            logger.exception("a long message could not be started; it is tried again")
            self._traffic.wait(message.pubkey, (message.pk, WHOLE), seconds=UNKNOWN_RETRY_SECONDS)
        finally:
            self._traffic.started(batch, keys + left[1:])

    async def _keys_of_long(self, message: Message) -> list[Key]:
        """Starts it whole, or answers the keys of its parts, which are next."""
        if await self._database.read(partial(divided.count_open, message.pubkey)) >= MAX_DIVIDED_PER_PEER:
            # The receiver has room for so many incomplete messages of one sender, and no more.
            self._traffic.wait(message.pubkey, (message.pk, WHOLE), seconds=UNKNOWN_RETRY_SECONDS)
            return []
        own_hints = () if message.secret_number is not None else self._payer.hints()
        way = await self.ways.survey(message)
        if isinstance(way, Outcome):
            await self._put_off(message, way)
            return []
        if way.fits:
            self._ship_all(await self._database.write(partial(ledger.start_whole, message.pk, self._payer)))
            return []
        try:
            division, parts = await asyncio.to_thread(
                divide, message, room_bytes=way.careful_room_bytes, hints=own_hints
            )
        except Undividable:
            await self._put_off(message, too_far(way))
            return []
        cost_msat = sum(part.amount_msat + self._carrier.fee_limit_msat(part.amount_msat) for part in parts)
        logger.debug(
            "message divided",
            extra={"messages": [str(message.message_id)], "parts": len(parts), "hops": way.hops},
        )
        return await self._database.write(partial(ledger.start_divided, division, parts, cost_msat=cost_msat))

    async def _put_off(self, message: Message, outcome: Outcome) -> None:
        if outcome.verdict is Verdict.FINAL:
            give_up = partial(ledger.give_up, message, cause=outcome.cause, published=self._published)
            await self._database.write(give_up)
            return
        delay_seconds = backoff_seconds(message.attempts + 1)
        put_off = partial(
            ledger.put_off,
            message,
            cause=outcome.cause,
            delay_seconds=delay_seconds,
            published=self._published,
        )
        if await self._database.write(put_off):
            self._traffic.wait(message.pubkey, (message.pk, WHOLE), seconds=delay_seconds)

    async def _expire_forever(self) -> None:
        while True:
            try:
                await self._database.write(partial(ledger.expire, published=self._published))
            except Exception:
                logger.exception("messages whose time is over could not be looked for; trying again")
            await asyncio.sleep(EXPIRE_SECONDS)

    # unasked messages

    async def _answer_forever(self) -> None:
        while True:
            await self._answers.work.wait()
            self._answers.work.clear()
            while waiting := self._answers.take():
                self._spawn(self._answer(waiting))

    async def _answer(self, waiting: Waiting) -> None:
        """Sends an unasked message, where there is a node to send it to, and stores its end."""
        try:
            if problem := await self._reachability.problem(waiting.pubkey):
                await self._drop_answer(waiting, problem)
                return
            started = await self._database.write(partial(ledger.start_whole, waiting.key, self._payer))
        except Exception as error:
            if not isinstance(error, LndError):
                logger.exception("an answer could not be started; it is tried again")
            self._answers.wait(waiting, seconds=UNKNOWN_RETRY_SECONDS)
            return
        else:
            _note_started(started.attempts)
            for attempt, carried in started.attempts:
                with self._noted_as_followed(attempt):
                    signing = self._spawn(self._shipper.sign(attempt))
                    await self._follow(attempt, carried, self._shipper.send(attempt, carried, signing))
        finally:
            self._answers.release(known=waiting.known)

    async def _drop_answer(self, waiting: Waiting, problem: str) -> None:
        give_up = partial(
            ledger.give_up_answer, waiting.key, cause=reachability.CAUSES[problem], published=self._published
        )
        if service := await self._database.write(give_up):
            metrics.count_answers_dropped({(service, problem): 1})

    # on the way

    async def _ship(self, attempt: Attempt, carried: list[Carried], signing: asyncio.Task[bytes]) -> None:
        """Sends an attempt that is stored, and stores its end."""
        with self._following(attempt, HELD_SECONDS):
            await self._follow(attempt, carried, self._shipper.send(attempt, carried, signing))

    @contextmanager
    def _following(self, attempt: Attempt, held_seconds: float) -> Iterator[None]:
        """Until its end is stored, it takes a place in flight: for so long of all, then of its node alone."""
        held = asyncio.get_running_loop().call_later(held_seconds, self._traffic.held, attempt)
        try:
            with self._noted_as_followed(attempt):
                yield
        finally:
            held.cancel()
            self._traffic.release(attempt)

    @contextmanager
    def _noted_as_followed(self, attempt: Attempt) -> Iterator[None]:
        self._followed.add(attempt.pk)
        try:
            yield
        finally:
            self._followed.discard(attempt.pk)

    async def _follow(self, attempt: Attempt, carried: list[Carried], first: Awaitable[Outcome]) -> None:
        """Until the end of an attempt is known, and stored."""
        outcome, unheard = await self._surely(first), 0
        while outcome.verdict in (Verdict.UNKNOWN, Verdict.NEVER_SENT):
            if outcome.verdict is Verdict.NEVER_SENT and (_is_over(carried) or self._is_abandoned(carried)):
                unheard += 1
                verdict = Verdict.UNKNOWN if unheard < UNHEARD_ANSWERS else Verdict.PASSING
                outcome = Outcome(verdict=verdict, cause="lnd has not heard of it")
            else:
                outcome = await self._surely(self._ask_again(attempt, carried, outcome))
        await self._finish(attempt, carried, outcome)

    async def _surely(self, asking: Awaitable[Outcome]) -> Outcome:
        """Whatever went wrong here, lnd may know the payment: it has to be asked."""
        try:
            return await asking
        except ServiceGone as error:
            return Outcome(verdict=Verdict.FINAL, cause=str(error))
        except Exception as error:
            logger.exception("an attempt met with an error; lnd is asked what became of it")
            return Outcome(verdict=Verdict.UNKNOWN, cause=type(error).__name__)

    async def _ask_again(self, attempt: Attempt, carried: list[Carried], outcome: Outcome) -> Outcome:
        if outcome.verdict is Verdict.UNKNOWN:
            logger.debug("payment's end unknown, asking again", extra={"cause": outcome.cause})
            await asyncio.sleep(UNKNOWN_RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)
            return await self._shipper.outcome(attempt, carried)
        return await self._shipper.send_again(attempt, carried)

    async def _finish(self, attempt: Attempt, carried: list[Carried], outcome: Outcome) -> None:
        ids = [_name(one) for one in carried]
        told = {
            "verdict": outcome.verdict.value,
            "cause": outcome.cause,
            "attempt": str(attempt.pk),
            "messages": ids,
        }
        logger.debug("attempt ended", extra=told)
        metrics.PAYMENTS.labels(attempt.service, outcome.verdict.value).inc()
        self._abandoned.difference_update(one.pk for one in carried if isinstance(one, Message))
        hints = self._shipper.take_hints(attempt)
        if outcome.verdict is Verdict.SETTLED:
            stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settled.append((attempt, carried, outcome.fee_msat))
            self._settled_stored.append(stored)
            self._settling.set()
            await stored
            if hints:
                self._spawn(self._reachability.note_worked(attempt.destination, hints))
            return
        if outcome.verdict is Verdict.TOO_LARGE:
            self._rooms.forget(attempt.destination)
        waiting = await self._write_surely(partial(self._setback(outcome, carried), attempt, carried))
        for key, next_try_at in waiting or ():
            seconds = _seconds_until(next_try_at)
            if isinstance(carried[0], Message) and carried[0].is_unasked:
                self._answers.wait(_waiting(carried[0]), seconds=seconds)
            else:
                self._traffic.wait(attempt.destination, key, seconds=seconds)

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

    async def _write_surely(self, step: Callable[[], Result]) -> Result:
        """The end of a payment must not be forgotten: a full disk or a locked database passes."""
        while True:
            try:
                return await self._database.write(step)
            except Exception:
                logger.exception("the end of an attempt could not be stored; trying again")
                await asyncio.sleep(UNKNOWN_RETRY_SECONDS)

    def _setback(self, outcome: Outcome, carried: list[Carried]) -> Callable[..., Any]:
        """What becomes of what a failed attempt carried."""
        at_once = outcome.verdict in (Verdict.FINAL, Verdict.TOO_LARGE)
        if at_once and len(carried) == 1 and not self._may_be_divided(outcome, carried[0]):
            return partial(ledger.fail, cause=outcome.cause, published=self._published)
        # In company one message may be to blame for all: each is tried again by itself.
        return partial(
            ledger.retry,
            cause=outcome.cause,
            delay_seconds=self._delay_seconds(outcome, carried),
            # A dead payment is nobody's fault.
            alone=len(carried) > 1 and outcome.verdict is not Verdict.DEAD,
            published=self._published,
            other_secret=outcome.verdict is Verdict.DEAD,
        )

    def _delay_seconds(self, outcome: Outcome, carried: list[Carried]) -> float:
        if outcome.verdict in (Verdict.FINAL, Verdict.TOO_LARGE):
            return 0.0
        # A dead payment has waited long enough, whatever went wrong before.
        dead = outcome.verdict is Verdict.DEAD
        return backoff_seconds(1 if dead else max((one.attempts for one in carried), default=1))

    def _may_be_divided(self, outcome: Outcome, carried: Carried) -> bool:
        """Whether a route that has become longer is no more than a reason to look at it again."""
        if outcome.verdict is not Verdict.TOO_LARGE or isinstance(carried, Part) or carried.is_unasked:
            return False
        if carried.secret_number is not None:
            return False
        return record_bytes(carried, hints=self._payer.hints()) > self._carrier.safe_room_bytes

    # after a start

    @property
    def depth(self) -> Depth:
        """Of what was asked for here and of what was not."""
        counted, answers = self._traffic.counted(), self._answers
        return Depth(
            queued=counted.queued + answers.queued,
            retrying=counted.retrying + answers.retrying,
            in_flight=counted.in_flight + answers.in_flight,
        )

    async def _take_up(self) -> None:
        give_up = partial(
            divided.give_up_begun_by_others, self._own_pubkey.hex(), cause=BEGUN, published=self._published
        )
        if count := await self._write_surely(give_up):
            logger.warning(BEGUN, extra={"count": count})
        unfinished = await self._database.read(ledger.unfinished_attempts)
        # Both are read before anything moves: a message whose attempt fails now would be found here, and wait twice.
        waiting = await self._database.read(ledger.waiting_keys)
        answers = await self._database.read(ledger.waiting_answers)
        self._resume_all(unfinished)
        for message, at in answers:
            self._answers.wait(_waiting(message), seconds=_seconds_until(at) if at else 0.0)
        for key, pubkey, next_try_at in waiting:
            self._traffic.wait(pubkey, key, seconds=_seconds_until(next_try_at) if next_try_at else None)

    def _resume_all(self, unfinished: list[tuple[Attempt, list[Carried]]]) -> None:
        for attempt, carried in unfinished:
            self._abandoned.update(_message(one).pk for one in carried if _message(one).abandoned_at)
            if carried and isinstance(carried[0], Message) and carried[0].is_unasked:
                self._answers.occupy(known=_waiting(carried[0]).known)
                self._spawn(self._resume_answer(attempt, carried))
            else:
                self._traffic.occupy(attempt)
                self._spawn(self._resume(attempt, carried))

    async def _resume(self, attempt: Attempt, carried: list[Carried]) -> None:
        """Asks lnd what became of an attempt that an earlier process left; its secret stays the same."""
        age_seconds = max(0.0, -_seconds_until(attempt.created_at))
        with self._following(attempt, max(0.0, HELD_SECONDS - age_seconds)):
            await self._follow_up(attempt, carried)

    async def _look_for_orphans(self) -> None:
        """An attempt may be stored though the database said that it is not, or its task may have met with an error."""
        orphans = Orphans()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                under_way = await self._database.read(ledger.attempts_in_flight)
                found = orphans.of(under_way, self._followed)
                if found:
                    logger.warning("attempts that nobody follows are taken up", extra={"count": len(found)})
                    self._resume_all(await self._database.read(partial(ledger.unfinished_attempts, found)))
            except Exception:
                logger.exception("attempts that nobody follows could not be looked for; trying again")

    async def _resume_answer(self, attempt: Attempt, carried: list[Carried]) -> None:
        known = any(isinstance(one, Message) and _waiting(one).known for one in carried)
        try:
            with self._noted_as_followed(attempt):
                await self._follow_up(attempt, carried)
        finally:
            self._answers.release(known=known)

    async def _follow_up(self, attempt: Attempt, carried: list[Carried]) -> None:
        if attempt.payer in ("", self._own_pubkey.hex()):
            await self._follow(attempt, carried, self._shipper.outcome(attempt, carried))
            return
        # Whatever it carries, in company too: nothing that may have been paid for is sent again.
        logger.warning(
            EXCHANGED, extra={"attempt": str(attempt.pk), "messages": [_name(one) for one in carried]}
        )
        fail = partial(
            ledger.fail, attempt, carried, cause=EXCHANGED, published=self._published, may_be_paid=True
        )
        await self._write_surely(fail)

    def _spawn(self, coroutine: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception())
            and not isinstance(error, (LndError, ServiceGone))
        ):
            logger.error("outbox task failed", exc_info=error)


def _note_accepted(accepted: list[tuple[str, Message]]) -> None:
    """One line for all that were committed together, by whom they were asked for."""
    metrics.count_messages((message for _, message in accepted), State.QUEUED)
    ids: dict[str, list[str]] = {}
    for by, message in accepted:
        ids.setdefault(by, []).append(str(message.message_id))
    for by, messages in ids.items():
        logger.debug("accepted", extra={"operation": by, "messages": messages})


def _note_started(attempts: list[tuple[Attempt, list[Carried]]]) -> None:
    if attempts:
        carried = {str(attempt.pk): [_name(one) for one in carried] for attempt, carried in attempts}
        logger.debug("attempts started", extra={"attempts": carried})


def _name(carried: Carried) -> str:
    if isinstance(carried, Part):
        return f"{carried.message.message_id} part {carried.index}"
    return str(carried.message_id)


def _message(carried: Carried) -> Message:
    return carried.message if isinstance(carried, Part) else carried


def _waiting(message: Message) -> Waiting:
    """Of an unasked message; one to a known peer may be tried more often than others."""
    return Waiting(message.pk, message.pubkey, known=(message.max_attempts or 0) > ATTEMPTS)


def _is_over(carried: list[Carried]) -> bool:
    """Whether the time of all these is over."""
    messages = map(_message, carried)
    return all(message.expires_at and message.expires_at <= clock.now() for message in messages)


def _seconds_until(moment: datetime) -> float:
    return (moment - clock.now()).total_seconds()


def backoff_seconds(attempts: int) -> float:
    """Exponential, with jitter so that many messages do not come back at the same instant."""
    base: float = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 16))
    return base * random.uniform(0.75, 1.25)  # noqa: S311 (no secret)


def _answer(accepted: list[Accepted], error: Exception | None) -> None:
    for entry in accepted:
        if entry.stored.done():
            continue
        if error is None:
            entry.stored.set_result(None)
        else:
            entry.stored.set_exception(error)
