"""One lnd node: its credentials, the calls the node makes, and what its errors mean.

Only this package knows what a macaroon is.
"""

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from google.protobuf.message import Message

from lightning import macaroon
from lightning.rpcs import Rpc
from protos.invoicesrpc import invoices_pb2, invoices_pb2_grpc
from protos.lnrpc import lightning_pb2, lightning_pb2_grpc
from protos.routerrpc import router_pb2, router_pb2_grpc

logger = logging.getLogger("lightning.client")

CALL_SECONDS = 30

_CHANNEL_OPTIONS = (
    # A dead TCP connection would otherwise hang a stream for days. lnd allows a ping every 5 seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 15_000),
    ("grpc.http2.max_pings_without_data", 0),
    # As lncli: an invoice that was paid many times is large.
    ("grpc.max_receive_message_length", 200 * 2**20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
)


class Trouble(enum.Enum):
    """What is wrong with lnd. The first group passes by itself, the second wants the operator."""

    AWAY = "away"
    STARTING = "starting"
    LOCKED = "locked"
    BUSY = "busy"

    CERTIFICATE = "certificate"
    MACAROON = "macaroon"
    WRONG_NODE = "wrong_node"
    NO_KEYSEND = "no_keysend"
    REFUSED = "refused"

    @property
    def passes(self) -> bool:
        return self in (Trouble.AWAY, Trouble.STARTING, Trouble.LOCKED, Trouble.BUSY)


class LndError(Exception):
    """lnd did not do what was asked. `str()` is fit for a log line; it holds no secret."""

    def __init__(
        self, trouble: Trouble, text: str, *, code: grpc.StatusCode | None = None, details: str = ""
    ):
        super().__init__(text)
        self.trouble = trouble
        self.code = code
        self.details = details


class LndClient:
    """Calls to one lnd over one channel.

    `tls_cert` is the PEM of lnd's own certificate, or None for the system's certificate authorities (hosted nodes).
    `channel` is used instead of one that is opened to that address, and closed with the client.
    Every method raises LndError.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        tls_cert: bytes | None,
        macaroon_hex: str,
        channel: grpc.aio.Channel | None = None,
    ):
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._tls_cert = tls_cert
        self._former_channels: list[grpc.aio.Channel] = []
        self._take_macaroon(macaroon_hex)
        self._take_channel(channel or _open_channel(self.address, tls_cert))

    def _take_macaroon(self, macaroon_hex: str) -> None:
        self._metadata = (("macaroon", macaroon_hex),)
        self._macaroon_hex = macaroon_hex

    def _take_channel(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stubs = {
            "lnrpc.Lightning": lightning_pb2_grpc.LightningStub(channel),
            "routerrpc.Router": router_pb2_grpc.RouterStub(channel),
            "invoicesrpc.Invoices": invoices_pb2_grpc.InvoicesStub(channel),
        }

    def with_credentials(self, *, tls_cert: bytes | None, macaroon_hex: str) -> "LndClient":
        """Another client of the same lnd, for trying these. It is to be closed."""
        host, _, port = self.address.rpartition(":")
        return LndClient(host=host.strip("[]"), port=int(port), tls_cert=tls_cert, macaroon_hex=macaroon_hex)

    def renew(self, *, tls_cert: bytes | None, macaroon_hex: str) -> None:
        """Make calls with these from now on; those that are under way go on as they began."""
        self._take_macaroon(macaroon_hex)
        if tls_cert != self._tls_cert:
            self._tls_cert = tls_cert
            # To close it would cancel the calls on it. Without calls it does not connect again.
            self._former_channels.append(self._channel)
            self._take_channel(_open_channel(self.address, tls_cert))

    async def close(self) -> None:
        for channel in (*self._former_channels, self._channel):
            await channel.close()

    async def get_info(self) -> lightning_pb2.GetInfoResponse:
        return await self._call(Rpc.GET_INFO, lightning_pb2.GetInfoRequest())

    async def list_channels(self) -> lightning_pb2.ListChannelsResponse:
        return await self._call(Rpc.LIST_CHANNELS, lightning_pb2.ListChannelsRequest())

    async def pending_channels(self) -> lightning_pb2.PendingChannelsResponse:
        return await self._call(Rpc.PENDING_CHANNELS, lightning_pb2.PendingChannelsRequest())

    async def node_info(self, pubkey: bytes) -> lightning_pb2.NodeInfo:
        return await self._call(Rpc.GET_NODE_INFO, lightning_pb2.NodeInfoRequest(pub_key=pubkey.hex()))

    async def channel_info(self, chan_id: int) -> lightning_pb2.ChannelEdge:
        return await self._call(Rpc.GET_CHAN_INFO, lightning_pb2.ChanInfoRequest(chan_id=chan_id))

    async def query_routes(
        self, request: lightning_pb2.QueryRoutesRequest
    ) -> lightning_pb2.QueryRoutesResponse:
        return await self._call(Rpc.QUERY_ROUTES, request)

    async def list_invoices(
        self, request: lightning_pb2.ListInvoiceRequest
    ) -> lightning_pb2.ListInvoiceResponse:
        """A page of invoices by add_index; `index_offset` is exclusive."""
        return await self._call(Rpc.LIST_INVOICES, request)

    async def add_invoice(self, invoice: lightning_pb2.Invoice) -> lightning_pb2.AddInvoiceResponse:
        return await self._call(Rpc.ADD_INVOICE, invoice)

    async def lookup_invoice(self, payment_hash: bytes) -> lightning_pb2.Invoice:
        """LndError with code NOT_FOUND for a hash that is not of this lnd's invoices."""
        return await self._call(Rpc.LOOKUP_INVOICE, lightning_pb2.PaymentHash(r_hash=payment_hash))

    async def add_hold_invoice(
        self, request: invoices_pb2.AddHoldInvoiceRequest
    ) -> invoices_pb2.AddHoldInvoiceResp:
        """LndError with code UNKNOWN, "invoice with payment hash already exists", for a hash that was used before."""
        return await self._call(Rpc.ADD_HOLD_INVOICE, request)

    async def settle_invoice(self, preimage: bytes) -> None:
        """Takes the payment that a hold invoice holds. A second time is no error; LndError with code UNKNOWN, "invoice
        already canceled", after a cancel.
        """
        await self._call(Rpc.SETTLE_INVOICE, invoices_pb2.SettleInvoiceMsg(preimage=preimage))

    async def cancel_invoice(self, payment_hash: bytes) -> None:
        """Gives the payment back. LndError with code UNKNOWN, "invoice already settled", after a settlement."""
        await self._call(Rpc.CANCEL_INVOICE, invoices_pb2.CancelInvoiceMsg(payment_hash=payment_hash))

    async def decode_payment_request(self, text: str) -> lightning_pb2.PayReq:
        return await self._call(Rpc.DECODE_PAY_REQ, lightning_pb2.PayReqString(pay_req=text))

    async def sign_message(self, message: bytes) -> str:
        """lnd's zbase32 signature by the node's key. lnd signs deterministically (RFC 6979)."""
        response = await self._call(Rpc.SIGN_MESSAGE, lightning_pb2.SignMessageRequest(msg=message))
        return response.signature

    async def send_payment(self, request: router_pb2.SendPaymentRequest) -> lightning_pb2.Payment:
        """Pays and waits for the end of the payment, which goes on in lnd when this call is cancelled."""
        return await self._last(Rpc.SEND_PAYMENT, request)

    async def track_payment(self, payment_hash: bytes) -> lightning_pb2.Payment:
        """Waits for the end of a payment that was made earlier. LndError with code NOT_FOUND when lnd never heard of it."""
        request = router_pb2.TrackPaymentRequest(payment_hash=payment_hash, no_inflight_updates=True)
        return await self._last(Rpc.TRACK_PAYMENT, request)

    async def payment_now(self, payment_hash: bytes) -> lightning_pb2.Payment:
        """A payment as it is now. LndError with code NOT_FOUND when lnd never heard of it."""
        request = router_pb2.TrackPaymentRequest(payment_hash=payment_hash)
        call = self._method(Rpc.TRACK_PAYMENT)(request, metadata=self._metadata, timeout=CALL_SECONDS)
        try:
            async for payment in call:
                return payment
        except grpc.aio.AioRpcError as error:
            raise self._error(Rpc.TRACK_PAYMENT, error) from None
        finally:
            call.cancel()
        raise LndError(Trouble.AWAY, "lnd ended the payment stream before it told anything")

    async def subscribe_invoices(self) -> AsyncIterator[lightning_pb2.Invoice]:
        """New invoices and settlements from now on. Ends with LndError."""
        # settle_index 0: lnd tells no backlog, and a cursor ahead of a restored node cannot mute it.
        async for invoice in self._invoices_of(Rpc.SUBSCRIBE_INVOICES, lightning_pb2.InvoiceSubscription()):
            yield invoice

    async def subscribe_single_invoice(self, payment_hash: bytes) -> AsyncIterator[lightning_pb2.Invoice]:
        """One invoice as it is, then each of its changes, ACCEPTED among them, which no other stream tells. Ends with
        LndError, also after a final state.
        """
        request = invoices_pb2.SubscribeSingleInvoiceRequest(r_hash=payment_hash)
        async for invoice in self._invoices_of(Rpc.SUBSCRIBE_SINGLE_INVOICE, request):
            yield invoice

    async def not_permitted(self, calls: Iterable[Rpc]) -> list[Rpc]:
        """Which of these calls the macaroon does not permit: as lnd says or, if it may not be asked that, as is written
        in the macaroon.
        """
        calls = list(calls)
        try:
            permitted = await asyncio.gather(*map(self._permits, calls))
            return [rpc for rpc, is_permitted in zip(calls, permitted, strict=True) if not is_permitted]
        except LndError as error:
            # An lnd from before this call, or a macaroon without it.
            if error.code is not grpc.StatusCode.UNIMPLEMENTED and PERMISSION_DENIED not in error.details:
                raise
        try:
            return macaroon.not_permitted(bytes.fromhex(self._macaroon_hex), calls)
        except ValueError:
            logger.warning(
                "what the macaroon in lightning.lnd_node.admin_macaroon permits cannot be told beforehand"
            )
            return []

    async def _permits(self, rpc: Rpc) -> bool:
        entity, action = rpc.permission
        request = lightning_pb2.CheckMacPermRequest(
            macaroon=bytes.fromhex(self._macaroon_hex),
            permissions=[lightning_pb2.MacaroonPermission(entity=entity, action=action)],
            fullMethod=rpc.path,
        )
        try:
            return (await self._call(Rpc.CHECK_MACAROON, request)).valid
        except LndError as error:
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                return False
            raise

    def _method(self, rpc: Rpc) -> Any:
        return getattr(self._stubs[rpc.service], rpc.method)

    async def _invoices_of(self, rpc: Rpc, request: Message) -> AsyncIterator[lightning_pb2.Invoice]:
        call = self._method(rpc)(request, metadata=self._metadata)
        try:
            async for invoice in call:
                yield invoice
            raise LndError(Trouble.AWAY, "lnd ended the invoice stream")
        except grpc.aio.AioRpcError as error:
            raise self._error(rpc, error) from None
        finally:
            call.cancel()

    async def _call(self, rpc: Rpc, request: Message) -> Any:
        try:
            return await self._method(rpc)(request, metadata=self._metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._error(rpc, error) from None

    async def _last(self, rpc: Rpc, request: Message) -> lightning_pb2.Payment:
        payment = None
        try:
            async for payment in self._method(rpc)(request, metadata=self._metadata):
                if payment.status in (lightning_pb2.Payment.SUCCEEDED, lightning_pb2.Payment.FAILED):
                    return payment
        except grpc.aio.AioRpcError as error:
            raise self._error(rpc, error) from None
        raise LndError(Trouble.AWAY, "lnd ended the payment stream before the payment's end")

    def _error(self, rpc: Rpc, error: grpc.aio.AioRpcError) -> LndError:
        return explain(self.address, rpc, error.code(), error.details() or "")


def _open_channel(address: str, tls_cert: bytes | None) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(tls_cert)
    return grpc.aio.secure_channel(address, credentials, options=_CHANNEL_OPTIONS)


# Of a macaroon that is its own and does not permit the call.
PERMISSION_DENIED = "permission denied"
# What lnd says of macaroons that are not its own, too weak, or none at all.
_MACAROON_WORDS = (
    "macaroon",
    PERMISSION_DENIED,
    "verification failed",
    "unmarshal v",
    "cannot determine data format",
)


def too_weak(address: str, calls: Iterable[Rpc]) -> LndError:
    """The macaroon does not permit these calls."""
    names = ", ".join(rpc.method for rpc in calls)
    return LndError(
        Trouble.MACAROON,
        f"the macaroon in lightning.lnd_node.admin_macaroon does not permit {names} (lnd at {address}): "
        "`./impervious macaroon` prints the line that bakes one which permits all that this node calls",
    )


def explain(address: str, rpc: Rpc, code: grpc.StatusCode, details: str) -> LndError:
    """An LndError that says in words what a gRPC status of lnd means and what can be done."""
    trouble, text = _diagnose(address, rpc, code, details)
    return LndError(trouble, text, code=code, details=details)


def _diagnose(address: str, rpc: Rpc, code: grpc.StatusCode, details: str) -> tuple[Trouble, str]:
    lowered = details.lower()
    if (
        "certificate_verify_failed" in lowered
        or "handshake failed" in lowered
        or "wrong_version_number" in lowered
    ):
        return Trouble.CERTIFICATE, (
            f"lnd at {address} does not show the certificate in lightning.lnd_node.tls_cert: give the tls.cert of this very "
            "lnd, and an ip that stands in it (lnd's tlsextraip, tlsextradomain)"
        )
    if "wallet locked" in lowered or "wallet not created" in lowered:
        return Trouble.LOCKED, f"lnd at {address} is locked: run `lncli unlock` (or `lncli create`)"
    if "process of starting up" in lowered or (
        code is grpc.StatusCode.UNIMPLEMENTED and "unknown service" in lowered
    ):
        return Trouble.STARTING, f"lnd at {address} is starting"
    if PERMISSION_DENIED in lowered:
        return Trouble.MACAROON, str(too_weak(address, [rpc]))
    if any(words in lowered for words in _MACAROON_WORDS):
        return Trouble.MACAROON, (
            f"lnd at {address} refuses the macaroon in lightning.lnd_node.admin_macaroon: {details[:200]}"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        return Trouble.AWAY, f"lnd at {address} does not answer"
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return Trouble.BUSY, f"lnd at {address} did not answer in time"
    return Trouble.REFUSED, f"lnd at {address}: {details[:200]}"
