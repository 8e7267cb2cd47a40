"""How a record gets to another node: the one interface below the outbox, and keysend as its first kind.

The outbox knows records, amounts and outcomes; it knows no keysend.
"""

import enum
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import grpc

from lightning import keysend
from lightning.client import LndClient, LndError
from lightning.dead_payments import DeadPaymentError, DeadPayments, Watched
from lightning.hints import HopHint
from lightning.keysend import KeysendPayment
from protos.lnrpc import lightning_pb2

PAYMENT_SECONDS = 60


class Verdict(enum.Enum):
    SETTLED = "settled"
    PASSING = "passing"  # was not received; may succeed later
    FINAL = "final"  # was not received; will not succeed as it is
    TOO_LARGE = "too_large"  # was not received; a smaller record may succeed
    UNKNOWN = "unknown"  # cannot be told now: ask again
    NEVER_SENT = "never_sent"  # lnd has not heard of it: send the same again
    DEAD = "dead"  # lnd will never tell its end: send it anew, under another secret


@dataclass(frozen=True, kw_only=True)
class Outcome:
    verdict: Verdict
    cause: str = ""
    fee_msat: int = 0


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What is known of a shipment whose end was not seen. `secret` names it, before and after a crash; it began at `began_at`
    (Unix seconds), whenever it is sent again. What was paid under this secret before `not_paid_before` was another one.
    """

    secret: bytes
    amount_msat: int
    began_at: float
    not_paid_before: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Shipment(Sent):
    """One record on its way to `destination`. `fee_limit_msat`: None for the carrier's own."""

    destination: bytes
    record_number: int
    record: bytes
    hints: tuple[HopHint, ...] = ()
    fee_limit_msat: int | None = None


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is asked before something is sent: a record of that size, with that amount, to that node."""

    destination: bytes
    record_number: int
    record_bytes: int
    amount_msat: int
    hints: tuple[HopHint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to a node, as it is now: its hops, the fee of the one payment that was asked about, whether its record fits,
    and the bytes of a record that would fit over two hops more.
    """

    hops: int
    fee_msat: int
    fits: bool
    careful_room_bytes: int


class Carrier(Protocol):
    """Records of up to `safe_room_bytes` need no survey. `survey` answers an Outcome when there is no way now. No record has
    more than `most_room_bytes`. `suspected`: by their names, shipments that seem to have no end, with a text that says so.
    """

    safe_room_bytes: int
    most_room_bytes: int

    @property
    def suspected(self) -> Mapping[bytes, str]: ...

    def new_secret(self) -> bytes: ...
    def name_of(self, secret: bytes) -> bytes: ...
    def fee_limit_msat(self, amount_msat: int) -> int: ...
    async def sign(self, message: bytes) -> str: ...
    async def survey(self, parcel: Parcel) -> Way | Outcome: ...
    async def announced(self, destination: bytes) -> bool: ...
    async def exists(self, destination: bytes) -> bool: ...
    async def send(self, shipment: Shipment) -> Outcome: ...
    async def outcome(self, sent: Sent) -> Outcome: ...


class KeysendCarrier:
    """Records as keysend payments over one lnd. The secret is the preimage, the name its payment hash."""

    safe_room_bytes = keysend.SAFE_ROOM_BYTES
    most_room_bytes = keysend.ROOM_ONE_HOP_BYTES

    def __init__(
        self, client: LndClient, *, max_fee_sat: int, max_fee_percent: float, dead_payments: DeadPayments
    ):
        self._client = client
        self._dead_payments = dead_payments
        self._max_fee_sat = max_fee_sat
        self._max_fee_percent = max_fee_percent

    @property
    def suspected(self) -> Mapping[bytes, str]:
        return self._dead_payments.suspected

    def new_secret(self) -> bytes:
        return keysend.new_preimage()

    def name_of(self, secret: bytes) -> bytes:
        return keysend.payment_hash(secret)

    def fee_limit_msat(self, amount_msat: int) -> int:
        """The most that one payment of this amount may pay for its way."""
        return keysend.fee_limit_msat(
            amount_msat=amount_msat, max_fee_sat=self._max_fee_sat, max_fee_percent=self._max_fee_percent
        )

    async def sign(self, message: bytes) -> str:
        return await self._client.sign_message(message)

    async def send(self, shipment: Shipment) -> Outcome:
        """Pays and waits for the end. Never raises LndError: what went wrong is in the outcome."""
        payment = self._payment(shipment)
        request = keysend.send_request(payment, timeout_seconds=PAYMENT_SECONDS)
        try:
            result = await self._end_of(shipment, self._client.send_payment(request), interrupted=False)
        except LndError as error:
            return await self._after_error(error, shipment)
        except DeadPaymentError as error:
            return Outcome(verdict=Verdict.DEAD, cause=str(error))
        return await self._judge(result, payment, shipment)

    async def _end_of(
        self, sent: Sent, call: Awaitable[lightning_pb2.Payment], *, interrupted: bool
    ) -> lightning_pb2.Payment:
        watched = Watched(
            payment_hash=self.name_of(sent.secret),
            amount_msat=sent.amount_msat,
            began_at=sent.began_at,
            interrupted=interrupted,
            may_be_repeated=True,
        )
        return await self._dead_payments.end_of(watched, call)

    async def survey(self, parcel: Parcel) -> Way | Outcome:
        """The way to a node, from lnd's QueryRoutes with a record of the very size. Never raises LndError."""
        payment = self._surveyed(parcel, parcel.record_bytes)
        try:
            route = await self._route(payment)
            fits = route is not None
            route = route or await self._route(self._surveyed(parcel, 1))
            if route is None:
                return await self._no_route(payment)
        except LndError as error:
            return Outcome(verdict=Verdict.PASSING, cause=str(error))
        hops = len(route.hops)
        return Way(
            hops=hops,
            fee_msat=route.total_fees_msat,
            fits=fits,
            careful_room_bytes=keysend.room_bytes(
                hops=hops + keysend.HOPS_TO_SPARE, amount_msat=parcel.amount_msat
            ),
        )

    async def announced(self, destination: bytes) -> bool:
        """Whether the graph knows the node as one that takes keysend. Raises LndError."""
        try:
            info = await self._client.node_info(destination)
        except LndError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return keysend.is_announced(info.node.features)

    async def exists(self, destination: bytes) -> bool:
        """Whether it is in the graph, or a channel peer. Raises LndError."""
        try:
            await self._client.node_info(destination)
        except LndError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return await self._is_channel_peer(destination)
        return True

    async def outcome(self, sent: Sent) -> Outcome:
        """What became of a shipment whose end was not seen, for example before a crash."""
        call = self._client.track_payment(self.name_of(sent.secret))
        try:
            result = await self._end_of(sent, call, interrupted=True)
        except LndError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return Outcome(verdict=Verdict.NEVER_SENT)
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        except DeadPaymentError as error:
            return Outcome(verdict=Verdict.DEAD, cause=str(error))
        return await self._judge(result, None, sent)

    def _payment(self, shipment: Shipment) -> KeysendPayment:
        return KeysendPayment(
            destination=shipment.destination,
            preimage=shipment.secret,
            amount_msat=shipment.amount_msat,
            fee_limit_msat=self.fee_limit_msat(shipment.amount_msat)
            if shipment.fee_limit_msat is None
            else shipment.fee_limit_msat,
            records={shipment.record_number: shipment.record},
            route_hints=tuple(hint.as_route_hint() for hint in shipment.hints),
        )

    def _surveyed(self, parcel: Parcel, record_bytes: int) -> KeysendPayment:
        """A payment that is only asked about."""
        return KeysendPayment(
            destination=parcel.destination,
            preimage=bytes(keysend.PREIMAGE_BYTES),
            amount_msat=parcel.amount_msat,
            fee_limit_msat=self.fee_limit_msat(parcel.amount_msat),
            records={parcel.record_number: bytes(record_bytes)},
            route_hints=tuple(hint.as_route_hint() for hint in parcel.hints),
        )

    async def _route(self, payment: KeysendPayment) -> lightning_pb2.Route | None:
        """lnd's best route for it; None when there is none, or none that has room for its record."""
        try:
            return (await self._client.query_routes(keysend.routes_request(payment))).routes[0]
        except LndError as error:
            if "unable to find a path" in error.details or "insufficient local balance" in error.details:
                return None
            raise

    async def _after_error(self, error: LndError, sent: Sent) -> Outcome:
        if error.code is grpc.StatusCode.ALREADY_EXISTS:
            return await self.outcome(sent)
        if error.trouble.passes or error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL):
            return Outcome(verdict=Verdict.UNKNOWN, cause=str(error))
        if error.code is grpc.StatusCode.UNKNOWN and "self-payments" in error.details:
            return Outcome(verdict=Verdict.FINAL, cause="lnd does not pay itself")
        # Whatever lnd refused for, it may have started: only its own record of the payment permits another attempt.
        recorded = await self.outcome(sent)
        if recorded.verdict is Verdict.NEVER_SENT:
            return Outcome(verdict=Verdict.PASSING, cause=str(error))
        return recorded

    async def _judge(
        self, result: lightning_pb2.Payment, payment: KeysendPayment | None, sent: Sent
    ) -> Outcome:
        if result.status == lightning_pb2.Payment.SUCCEEDED:
            if result.creation_time_ns < sent.not_paid_before * 1e9:
                return _paid_earlier(result.creation_time_ns / 1e9)
            return Outcome(verdict=Verdict.SETTLED, fee_msat=result.fee_msat)
        reason = lightning_pb2.PaymentFailureReason.Name(result.failure_reason).removeprefix(
            "FAILURE_REASON_"
        )
        if result.failure_reason == lightning_pb2.FAILURE_REASON_INCORRECT_PAYMENT_DETAILS:
            return Outcome(
                verdict=Verdict.FINAL, cause="the recipient refused the payment: it does not take keysend"
            )
        if result.failure_reason == lightning_pb2.FAILURE_REASON_NO_ROUTE and payment is not None:
            return await self._no_route(payment)
        return Outcome(verdict=Verdict.PASSING, cause=_WORDS.get(result.failure_reason, f"lnd: {reason}"))

    async def _no_route(self, payment: KeysendPayment) -> Outcome:
        """Why there is no route: what can never be delivered is told apart from what may pass."""
        try:
            stranger = await self._stranger(payment)
            if stranger:
                return stranger
            return await self._misfit(payment) or Outcome(verdict=Verdict.PASSING, cause=_WORDS[_NO_ROUTE])
        except LndError as error:
            return Outcome(verdict=Verdict.PASSING, cause=str(error))

    async def _stranger(self, payment: KeysendPayment) -> Outcome | None:
        try:
            info = await self._client.node_info(payment.destination)
        except LndError as error:
            if error.code is not grpc.StatusCode.NOT_FOUND:
                raise
            return (
                None
                if payment.route_hints or await self._is_channel_peer(payment.destination)
                else _UNKNOWN_NODE
            )
        if info.node.features and not keysend.is_announced(info.node.features):
            return Outcome(
                verdict=Verdict.FINAL, cause="the recipient does not announce keysend (feature bit 55)"
            )
        return None

    async def _is_channel_peer(self, destination: bytes) -> bool:
        channels = await self._client.list_channels()
        return any(channel.remote_pubkey == destination.hex() for channel in channels.channels)

    async def _misfit(self, payment: KeysendPayment) -> Outcome | None:
        """An outcome when the record is too large for a route that exists; None when it fits, or there is no route."""
        if await self._route(payment):
            return None
        number, record = next(iter(payment.records.items()))
        route = await self._route(replace(payment, records={number: record[:1]}))
        if route is None:
            return None
        hops = len(route.hops)
        room = keysend.room_bytes(hops=hops, amount_msat=payment.amount_msat)
        return Outcome(
            verdict=Verdict.TOO_LARGE,
            cause=f"too long: its record has {len(record)} bytes, a route of {hops} hops has room for about {room}",
        )


def _paid_earlier(seconds: float) -> Outcome:
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    cause = (
        f"lnd has paid the same request under the same Idempotency-Key at {moment} UTC, and does not pay it again: "
        "use a new key for a new request"
    )
    return Outcome(verdict=Verdict.FINAL, cause=cause)


_UNKNOWN_NODE = Outcome(verdict=Verdict.FINAL, cause="no route: the Lightning graph does not know this node")
_NO_ROUTE = lightning_pb2.FAILURE_REASON_NO_ROUTE
_WORDS = {
    _NO_ROUTE: "no route now: no channels with enough balance lead to the recipient",
    lightning_pb2.FAILURE_REASON_TIMEOUT: "the payment found no way in time",
    lightning_pb2.FAILURE_REASON_ERROR: "the payment failed on its way",
    lightning_pb2.FAILURE_REASON_INSUFFICIENT_BALANCE: "the channels' balance is too low now",
    lightning_pb2.FAILURE_REASON_CANCELED: "the payment was canceled in lnd",
}
