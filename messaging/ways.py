"""What is asked of the way to a node before something is sent there: whether it fits, what it takes, what it may cost."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from lightning.carrier import Carrier, Outcome, Parcel, Verdict, Way
from lightning.hints import HopHint
from messaging.hints import HintBook
from messaging.models import Message
from messaging.packing import (
    MIN_AMOUNT_MSAT,
    Undividable,
    most_parts,
    most_record_bytes,
    part_bytes,
    record_bytes,
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What sending takes: payments, hops of each, fees and amount in all."""

    parts: int
    hops: int
    fee_msat: int
    amount_msat: int


class Ways:
    """Use from one event loop; `most_msat` from any thread."""

    def __init__(
        self,
        *,
        carrier: Carrier,
        record_numbers: Mapping[str, int],
        hints: HintBook,
        own_hints: Callable[[], tuple[HopHint, ...]],
    ):
        self._carrier = carrier
        self._record_numbers = record_numbers
        self._hints = hints
        self._own_hints = own_hints

    def most_msat(self, size_bytes: int, amount_msat: int) -> int:
        """The most that a message of so many bytes can cost: amount, or a satoshi a part if that is more, and fees."""
        parts = most_parts(size_bytes, amount_msat=amount_msat, safe_room_bytes=self._carrier.safe_room_bytes)
        paid_msat = max(amount_msat, parts * MIN_AMOUNT_MSAT)
        return paid_msat + parts * self._carrier.fee_limit_msat(-(-paid_msat // parts))

    async def survey(self, message: Message) -> Way | Outcome:
        """The way of a message as it is, whole. Whether one that has a secret of its own goes whole or how it is divided does
        not depend on the way: it would be paid twice if that changed.
        """
        size_bytes = await asyncio.to_thread(record_bytes, message, hints=self._own_hints())
        way = await self._carrier.survey(
            await self._parcel(message.pubkey, message.service, size_bytes, message.amount_msat)
        )
        if isinstance(way, Outcome) or message.secret_number is None:
            return way
        room_bytes = self._carrier.safe_room_bytes
        return replace(way, fits=record_bytes(message) <= room_bytes, careful_room_bytes=room_bytes)

    async def room_bytes(self, pubkey: str, service: str) -> int | None:
        """Bytes that fit a record to this node for this service with some hops to spare; None when there is no way now."""
        way = await self._carrier.survey(
            await self._parcel(pubkey, service, self._carrier.safe_room_bytes, MIN_AMOUNT_MSAT)
        )
        return None if isinstance(way, Outcome) else way.careful_room_bytes

    async def estimate(
        self, *, service: str, pubkey: str, size_bytes: int, amount_msat: int
    ) -> Estimate | Outcome:
        """What it would take to send so many bytes now, as no reply and not compressed; an Outcome when there is no way."""
        parcel = await self._parcel(pubkey, service, most_record_bytes(size_bytes), amount_msat)
        way = await self._carrier.survey(parcel)
        if isinstance(way, Outcome):
            return way
        if way.fits:
            return Estimate(parts=1, hops=way.hops, fee_msat=way.fee_msat, amount_msat=amount_msat)
        message = Message(message_id=UUID(int=0), pubkey=pubkey, service=service, amount_msat=amount_msat)
        try:
            each = part_bytes(
                message, size_bytes=size_bytes, room_bytes=way.careful_room_bytes, hints=self._own_hints()
            )
        except Undividable:
            return too_far(way)
        parts = -(-size_bytes // each)
        paid_msat = max(amount_msat, parts * MIN_AMOUNT_MSAT)
        way = await self._carrier.survey(
            replace(parcel, record_bytes=way.careful_room_bytes, amount_msat=paid_msat // parts)
        )
        if isinstance(way, Outcome):
            return way
        return Estimate(parts=parts, hops=way.hops, fee_msat=parts * way.fee_msat, amount_msat=paid_msat)

    async def postage_sat(self, pubkey: str, service: str) -> int:
        """What a request carries that wants an answer: 1 sat, which the answer carries back, the fee of the way as it is
        now, and 1 sat more. Who answers need not pay more than that; 2 sat when no way is known.
        """
        way = await self._carrier.survey(
            await self._parcel(pubkey, service, self._carrier.safe_room_bytes, MIN_AMOUNT_MSAT)
        )
        fee_msat = 0 if isinstance(way, Outcome) else way.fee_msat
        return 2 - (-fee_msat // 1000)

    async def announced(self, pubkey: str) -> bool:
        """Whether the recipient is known to take what the carrier brings. Raises LndError."""
        return await self._carrier.announced(bytes.fromhex(pubkey))

    async def _parcel(self, pubkey: str, service: str, size_bytes: int, amount_msat: int) -> Parcel:
        return Parcel(
            destination=bytes.fromhex(pubkey),
            record_number=self._record_numbers[service],
            record_bytes=size_bytes,
            amount_msat=amount_msat,
            hints=await self._hints.of(pubkey),
        )


def too_far(way: Way) -> Outcome:
    """Why a message cannot be divided for this way."""
    cause = f"too long: a route of {way.hops} hops has no room for even a part of it"
    return Outcome(verdict=Verdict.FINAL, cause=cause)
