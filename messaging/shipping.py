"""Attempts on their way to the carrier: their signatures, what is handed over, and what the carrier says of it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from django.db import Error as DatabaseError

from lightning import signature
from lightning.carrier import Carrier, Outcome, Sent, Shipment, Verdict
from lightning.client import LndError
from lightning.hints import HopHint
from messaging import envelope
from messaging.database import Database
from messaging.hints import HintBook
from messaging.models import Attempt, Message, Part
from messaging.preimages import not_paid_before

GIVEN_UP = "it was given up before it was sent"


class ServiceGone(Exception):
    """Of a message whose service is not in the configuration any more: it has no record number."""


class Shipper:
    """Use from one event loop. What is sent has been stored, and its outcome is to be stored by the caller."""

    def __init__(
        self,
        *,
        database: Database,
        carrier: Carrier,
        own_pubkey: bytes,
        record_numbers: Mapping[str, int],
        hints: HintBook,
        is_abandoned: Callable[[Sequence[Message | Part]], bool],
    ):
        self._database = database
        self._carrier = carrier
        self._own_pubkey = own_pubkey
        self._record_numbers = record_numbers
        self._hints = hints
        self._is_abandoned = is_abandoned
        # Hints with which attempts are under way.
        self._hinted: dict[UUID, tuple[HopHint, ...]] = {}

    async def sign(self, attempt: Attempt) -> bytes:
        """Raises LndError and ServiceGone."""
        if attempt.service not in self._record_numbers:
            raise ServiceGone(f"the service {attempt.service!r} is not in the configuration any more")
        message = envelope.signed_bytes(
            recipient=bytes.fromhex(attempt.destination),
            record_number=self._record_numbers[attempt.service],
            packet=bytes(attempt.packet),
        )
        return signature.compact_from_zbase32(await self._carrier.sign(message))

    async def send(
        self, attempt: Attempt, carried: Sequence[Message | Part], signing: asyncio.Task[bytes]
    ) -> Outcome:
        """For the first time. Raises ServiceGone."""
        try:
            compact = await signing
        except LndError as error:
            # lnd never heard of this attempt, so another one is safe.
            return Outcome(verdict=Verdict.PASSING, cause=str(error))
        if self._is_abandoned(carried):
            return Outcome(verdict=Verdict.PASSING, cause=GIVEN_UP)
        return await self._deliver(attempt, carried, compact)

    async def send_again(self, attempt: Attempt, carried: Sequence[Message | Part]) -> Outcome:
        """The very same, of which the carrier has not heard. Raises ServiceGone."""
        try:
            compact = await self.sign(attempt)
        except LndError as error:
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        if self._is_abandoned(carried):
            return Outcome(verdict=Verdict.UNKNOWN, cause=GIVEN_UP)
        return await self._deliver(attempt, carried, compact)

    async def outcome(self, attempt: Attempt, carried: Sequence[Message | Part]) -> Outcome:
        """What became of an attempt whose end was not seen."""
        return await self._carrier.outcome(
            Sent(
                secret=bytes(attempt.secret),
                amount_msat=attempt.amount_msat,
                began_at=attempt.created_at.timestamp(),
                not_paid_before=not_paid_before(carried),
            )
        )

    def take_hints(self, attempt: Attempt) -> tuple[HopHint, ...]:
        """With which it was sent, when it has ended."""
        return self._hinted.pop(attempt.pk, ())

    async def _deliver(self, attempt: Attempt, carried: Sequence[Message | Part], compact: bytes) -> Outcome:
        shipment = await self._shipment(attempt, carried, compact)
        try:
            # Whoever was paused since the attempt was stored may have been replaced: lnd knows nothing of that.
            await self._database.confirm()
        except DatabaseError as error:
            return Outcome(verdict=Verdict.UNKNOWN, cause=f"the database is away: {error}")
        return await self._carrier.send(shipment)

    async def _shipment(
        self, attempt: Attempt, carried: Sequence[Message | Part], compact: bytes
    ) -> Shipment:
        hints = await self._hints.of(attempt.destination)
        self._hinted[attempt.pk] = hints
        return Shipment(
            destination=bytes.fromhex(attempt.destination),
            record_number=self._record_numbers[attempt.service],
            record=envelope.encode_record(
                sender=self._own_pubkey, compact_signature=compact, packet=bytes(attempt.packet)
            ),
            amount_msat=attempt.amount_msat,
            secret=bytes(attempt.secret),
            began_at=attempt.created_at.timestamp(),
            not_paid_before=not_paid_before(carried),
            hints=hints,
            fee_limit_msat=attempt.fee_limit_msat,
        )
