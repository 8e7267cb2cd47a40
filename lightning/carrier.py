"""How a record gets to another node: the one interface below the outbox, and keysend as its first kind.

The outbox knows records, amounts and outcomes; it knows no keysend.
"""

import enum
from dataclasses import dataclass
from typing import Protocol

import grpc

from lightning import keysend
from lightning.client import LndClient, LndError
from lightning.keysend import KeysendPayment
from protos.lnrpc import lightning_pb2

PAYMENT_SECONDS = 60


class Verdict(enum.Enum):
    SETTLED = "settled"
    PASSING = "passing"      # was not received; may succeed later
    FINAL = "final"          # was not received; will not succeed as it is
    UNKNOWN = "unknown"      # cannot be told now: ask again
    NEVER_SENT = "never_sent"  # lnd has not heard of it: send the same again


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: Verdict
    cause: str = ""
    fee_msat: int = 0


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """One record on its way to `destination` with `amount_msat`. `secret` names it, before and after a crash."""

    destination: bytes
    record_number: int
    record: bytes
    amount_msat: int
    secret: bytes


class Carrier(Protocol):
    safe_room_bytes: int

    def new_secret(self) -> bytes: ...
    def name_of(self, secret: bytes) -> bytes: ...
    async def sign(self, message: bytes) -> str: ...
    async def send(self, shipment: Shipment) -> Outcome: ...
    async def outcome(self, secret: bytes) -> Outcome: ...


class KeysendCarrier:
    """Records as keysend payments over one lnd. The secret is the preimage, the name its payment hash."""

    safe_room_bytes = keysend.SAFE_ROOM_BYTES

    def __init__(self, client: LndClient, *, max_fee_sat: int, max_fee_percent: float):
        self._client = client
        self._max_fee_sat = max_fee_sat
        self._max_fee_percent = max_fee_percent

    def new_secret(self) -> bytes:
        return keysend.new_preimage()

    def name_of(self, secret: bytes) -> bytes:
        return keysend.payment_hash(secret)

    async def sign(self, message: bytes) -> str:
        return await self._client.sign_message(message)

    async def send(self, shipment: Shipment) -> Outcome:
        """Pays and waits for the end. Never raises LndError: what went wrong is in the outcome."""
        payment = self._payment(shipment)
        if len(shipment.record) > self.safe_room_bytes:
            misfit = await self._misfit(payment)
            if misfit:
                return misfit
        try:
            result = await self._client.send_payment(keysend.send_request(payment, timeout_seconds=PAYMENT_SECONDS))
        except LndError as error:
            return await self._after_error(error, shipment.secret)
        return await self._judge(result, payment)

    async def outcome(self, secret: bytes) -> Outcome:
        """What became of a shipment whose end was not seen, for example before a crash."""
        try:
            result = await self._client.track_payment(self.name_of(secret))
        except LndError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return Outcome(verdict=Verdict.NEVER_SENT)
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        return await self._judge(result, None)

    def _payment(self, shipment: Shipment) -> KeysendPayment:
        return KeysendPayment(
            destination=shipment.destination,
            preimage=shipment.secret,
            amount_msat=shipment.amount_msat,
            fee_limit_msat=keysend.fee_limit_msat(
                amount_msat=shipment.amount_msat, max_fee_sat=self._max_fee_sat, max_fee_percent=self._max_fee_percent
            ),
            records={shipment.record_number: shipment.record},
        )

    async def _after_error(self, error: LndError, secret: bytes) -> Outcome:
        if error.code is grpc.StatusCode.ALREADY_EXISTS:
            return await self.outcome(secret)
        if error.trouble.passes or error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        if error.code is grpc.StatusCode.UNKNOWN and "self-payments" in error.details:
            return Outcome(verdict=Verdict.FINAL, cause="lnd does not pay itself")
        # Whatever lnd refused for, it may have started: only its own record of the payment permits another attempt.
        recorded = await self.outcome(secret)
        if recorded.verdict is Verdict.NEVER_SENT:
            return Outcome(verdict=Verdict.PASSING, cause=str(error))
        return recorded

    async def _judge(self, result: lightning_pb2.Payment, payment: KeysendPayment | None) -> Outcome:
        if result.status == lightning_pb2.Payment.SUCCEEDED:
            return Outcome(verdict=Verdict.SETTLED, fee_msat=result.fee_msat)
        reason = lightning_pb2.PaymentFailureReason.Name(result.failure_reason).removeprefix("FAILURE_REASON_")
        if result.failure_reason == lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS:
            return Outcome(verdict=Verdict.FINAL, cause="the recipient refused the payment: it does not take keysend")
        if result.failure_reason == lightning_pb2.FAILURE_REASON_NO_ROUTE and payment is not None:
            return await self._no_route(payment)
        return Outcome(verdict=Verdict.PASSING, cause=_WORDS.get(result.failure_reason, f"lnd: {reason}"))

    async def _no_route(self, payment: KeysendPayment) -> Outcome:
        """Why there is no route: what can never be delivered is told apart from what may pass."""
        try:
            stranger = await self._stranger(payment.destination)
            if stranger:
                return stranger
            return await self._misfit(payment) or Outcome(verdict=Verdict.PASSING, cause=_WORDS[_NO_ROUTE])
        except LndError as error:
            return Outcome(verdict=Verdict.PASSING, cause=str(error))

    async def _stranger(self, destination: bytes) -> Outcome | None:
        try:
            info = await self._client.node_info(destination)
        except LndError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            channels = await self._client.list_channels()
            if any(channel.remote_pubkey == destination.hex() for channel in channels.channels):
                return None
            return Outcome(verdict=Verdict.FINAL, cause="no route: the Lightning graph does not know this node")
        features = info.node.features
        if features and not {keysend.KEYSEND_FEATURE_BIT, keysend.KEYSEND_FEATURE_BIT - 1} & set(features):
            return Outcome(verdict=Verdict.FINAL, cause="the recipient does not announce keysend (feature bit 55)")
        return None

    async def _misfit(self, payment: KeysendPayment) -> Outcome | None:
        """An outcome when the record is too large for a route that exists; None when it fits or cannot be told."""
        try:
            await self._client.query_routes(keysend.routes_request(payment))
            return None
        except LndError as error:
            if "unable to find a path" not in error.details:
                return None
        number, record = next(iter(payment.records.items()))
        bare = KeysendPayment(
            destination=payment.destination,
            preimage=payment.preimage,
            amount_msat=payment.amount_msat,
            fee_limit_msat=payment.fee_limit_msat,
            records={number: record[:1]},
        )
        try:
            routes = await self._client.query_routes(keysend.routes_request(bare))
        except LndError:
            return None
        hops = len(routes.routes[0].hops)
        room = keysend.ROOM_ONE_HOP_BYTES - keysend.ROOM_PER_HOP_BYTES * (hops - 1)
        return Outcome(
            verdict=Verdict.FINAL,
            cause=f"the message is too long: its record has {len(record)} bytes, a route of {hops} hops has room for about {room}",
        )


_NO_ROUTE = lightning_pb2.FAILURE_REASON_NO_ROUTE
_WORDS = {
    _NO_ROUTE: "no route now: no channels with enough balance lead to the recipient",
    lightning_pb2.FAILURE_REASON_TIMEOUT: "the payment found no way in time",
    lightning_pb2.FAILURE_REASON_ERROR: "the payment failed on its way",
    lightning_pb2.FAILURE_REASON_INSUFFICIENT_BALANCE: "the channels' balance is too low now",
    lightning_pb2.FAILURE_REASON_CANCELED: "the payment was canceled in lnd",
}
