"""The engine: all that one node does of its own accord. It lives in the runimpd process, once."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from django.conf import settings

from invoices.issuing import Issuer
from invoices.paying import Payer
from invoices.services import expenses_of_invoices, reserved_by_invoices, spent_on_invoices
from lightning.carrier import KeysendCarrier
from lightning.client import LndClient, LndError
from lightning.dead_payments import DeadPayments
from messaging import clock, metrics
from messaging.answers import AnswerTerms
from messaging.budget import Budget, expenses_of_messages, reserved_by_messages, spent_on_messages
from messaging.catchup import Walk
from messaging.database import Database
from messaging.events import Published, Waker
from messaging.hints import HintBook
from messaging.idempotency import Claims
from messaging.inbox import Inbox
from messaging.joining import Bounds
from messaging.outbox import Outbox
from messaging.policy import Rules, tell_configured
from messaging.preimages import Preimages
from messaging.registry import Registry, Service
from messaging.traffic import Limits
from messaging.workers import WorkerContext, run_forever
from nodeapi import retention, sqlite_space
from nodeapi.budgets import Budgets
from nodeapi.lnd_status import LndStatus
from nodeapi.relay.service import Relay, RelayOptions

logger = logging.getLogger("nodeapi.engine")

RECONNECT_SECONDS = 1.0
# After the stream was opened, until it is surely live; then again and again, because a stream can hang in silence.
FIRST_WALKS_SECONDS = (3.0,)
WALK_SECONDS = 120.0
PRUNE_SECONDS = 86_400.0
OLD_PARTS_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """What is received, by what rules of each service, and how many bytes of strangers in an hour; payments under way; how long a message is tried; fee limits
    (the larger of the two holds); the most that one call may cost, and all of them in 24 hours (None: no limit); by how
    much answers to others may exceed what those have paid, and over how many hints that nobody knows to work they are sent
    in an hour; how long no channel holds a payment before it is given up; how long things are kept.
    """

    bounds: Bounds
    inbound: Mapping[str, Rules]
    strangers_bytes_per_hour: int = 0
    traffic: Limits
    expires_seconds: int
    max_fee_sat: int
    max_fee_percent: float
    max_amount_sat: int | None
    daily_budget_sat: int | None
    dead_payment_seconds: int
    answers_allowance_sat: int = 0
    unproven_hints_per_hour: int = 0
    keep: retention.Keep

    @property
    def max_bytes(self) -> int:
        """Of one message, sent or received."""
        return self.bounds.max_bytes


class Engine:
    """Made once lnd has answered. `run` works until cancelled."""

    def __init__(
        self,
        *,
        database: Database,
        client: LndClient,
        lnd: LndStatus,
        registry: Registry,
        limits: EngineLimits,
        relay: RelayOptions,
        version: str,
        feed: Published,
    ):
        self.lnd = lnd
        self.registry = registry
        self.limits = limits
        self.version = version
        self.own_pubkey = bytes.fromhex(lnd.info.identity_pubkey)
        self._client = client
        self._database = database
        self._waker = Waker(feed)
        self.published = self._waker.published
        self._clock = clock.PROCESS
        claims = Claims(database)
        hints = HintBook(database)
        self.dead_payments = DeadPayments(client, quiet_seconds=limits.dead_payment_seconds)
        carrier = KeysendCarrier(
            client,
            max_fee_sat=limits.max_fee_sat,
            max_fee_percent=limits.max_fee_percent,
            dead_payments=self.dead_payments,
        )
        node_budget = Budget(
            database=database,
            limit_sat=limits.daily_budget_sat,
            sources=[spent_on_messages, spent_on_invoices],
            expenses=[expenses_of_messages, expenses_of_invoices],
            reserved=[reserved_by_messages, reserved_by_invoices],
        )
        self.budgets = Budgets(
            node=node_budget,
            database=database,
            fee_limit_msat=carrier.fee_limit_msat,
            max_call_sat=limits.max_amount_sat,
        )
        self.outbox = Outbox(
            database=database,
            carrier=carrier,
            own_pubkey=self.own_pubkey,
            record_numbers={service.service_type: service.record_number for service in registry.services},
            limits=limits.traffic,
            expires_seconds=limits.expires_seconds,
            published=self._waker.published,
            hints=hints,
            own_hints=lambda: lnd.reply_hints,
            budget=self.budgets,
            unproven_hints_per_hour=limits.unproven_hints_per_hour,
            claims=claims,
            preimages=Preimages(settings.SECRET_KEY),
        )
        self.answer_terms = AnswerTerms(
            fee_limit_msat=carrier.fee_limit_msat,
            room_bytes=carrier.most_room_bytes,
            own_hints=lambda: lnd.reply_hints,
            allowance_msat=limits.answers_allowance_sat * 1000,
        )
        self.inbox = Inbox(
            database=database,
            registry=registry,
            own_pubkey=self.own_pubkey,
            bounds=limits.bounds,
            published=self._waker.published,
            hints=hints,
            send_stored=self.outbox.send_stored,
            answer_terms=self.answer_terms,
            policies=limits.inbound,
            strangers_bytes_per_hour=limits.strangers_bytes_per_hour,
            now_seconds=self._clock.now_seconds,
        )
        self.issuer = Issuer(
            database=database,
            client=client,
            own_pubkey=self.own_pubkey.hex(),
            published=self._waker.published,
            claims=claims,
        )
        self.payer = Payer(
            database=database,
            client=client,
            own_pubkey=self.own_pubkey.hex(),
            budget=self.budgets,
            fee_limit_msat=carrier.fee_limit_msat,
            dead_payments=self.dead_payments,
            claims=claims,
        )
        metrics.begin([service.service_type for service in registry.services if service.state == "running"])
        self._walk = Walk(
            database=database,
            inbox=self.inbox,
            own_pubkey=self.own_pubkey,
            list_invoices=client.list_invoices,
        )
        socket_service = registry.by_type("socket")
        self.relay = Relay(
            database=database,
            options=relay,
            active=socket_service is not None and socket_service.state == "running",
            published=self._waker.published,
        )
        lnd.on_return = self.outbox.retry_now

    @property
    def client(self) -> LndClient:
        """For calls that are no more than a question to lnd."""
        return self._client

    async def begin(self) -> None:
        """From here on nothing that reaches lnd is missed. LndError when lnd does not answer."""
        await self._walk.begin()
        await self._database.write(partial(tell_configured, self.limits.inbound))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._waker.run())
            group.create_task(self.inbox.run())
            group.create_task(self.outbox.run())
            group.create_task(self.payer.run())
            group.create_task(self.lnd.run())
            group.create_task(self.dead_payments.run())
            group.create_task(self.relay.run())
            group.create_task(self._listen())
            group.create_task(self._prune_daily())
            group.create_task(self._forget_old_parts())
            for service in self.registry.services:
                if service.worker and service.state == "running":
                    group.create_task(run_forever(service, self._worker_context(service)))

    def _worker_context(self, service: Service) -> WorkerContext:
        return WorkerContext(
            database=self._database,
            clock=self._clock,
            published=self.published,
            send_stored=self.outbox.send_stored,
            cost_msat=self.outbox.ways.most_msat,
            answer_terms=self.answer_terms,
            postage_sat=self.outbox.ways.postage_sat,
            client=self.client,
            payer=self.payer,
            settings=service.settings,
        )

    async def _listen(self) -> None:
        """lnd's invoices into the inbox: live, over a stream that is replaced when it ends or hangs, and by walks."""
        while True:
            stream = asyncio.create_task(self._stream())
            walks = asyncio.create_task(self._walk_until_stream_hangs())
            try:
                await asyncio.wait({stream, walks}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stream.cancel()
                walks.cancel()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _stream(self) -> None:
        try:
            async for invoice in self._client.subscribe_invoices():
                await self.inbox.take(invoice)
                await self.issuer.take_live(invoice)
        except LndError as error:
            logger.warning("invoice stream: %s; opening it again", error)
            self.lnd.look_soon()
        except Exception:
            logger.exception("invoice stream; opening it again")

    async def _walk_until_stream_hangs(self) -> None:
        """The first walks bring what came before the stream was live; a later one that brings anything shows that the
        stream is silent.
        """
        for pause_seconds in (0.0, *FIRST_WALKS_SECONDS):
            await asyncio.sleep(pause_seconds)
            await self._walk_safely()
        while True:
            await asyncio.sleep(WALK_SECONDS)
            if found := await self._walk_safely():
                logger.warning("the invoice stream told nothing of %d payments; opening it again", found)
                return

    async def _walk_safely(self) -> int:
        try:
            found = (await self._walk.walk()).payments + await self.issuer.look()
        except LndError as error:
            logger.warning("invoices could not be looked through: %s; trying again later", error)
            return 0
        except Exception:
            logger.exception("invoices could not be looked through; trying again later")
            return 0
        if found:
            logger.info("payments found by looking through lnd's invoices", extra={"payments": found})
        return found

    async def _forget_old_parts(self) -> None:
        while True:
            try:
                await self.inbox.forget_old_parts()
            except Exception:
                logger.exception("old parts could not be dropped; trying again later")
            await asyncio.sleep(OLD_PARTS_SECONDS)

    async def _prune_daily(self) -> None:
        while True:
            try:
                deleted = await retention.prune(self._database, self.limits.keep)
                if any(deleted.values()):
                    logger.info("what is old was deleted", extra={"deleted": deleted})
                if pages := await sqlite_space.release(self._database):
                    logger.info("free room in the database was given back", extra={"pages": pages})
            except Exception:
                logger.exception("what is old could not be deleted; trying again tomorrow")
            await asyncio.sleep(PRUNE_SECONDS)
