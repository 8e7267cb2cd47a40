"""A bare gRPC client of one lnd, for tests and benchmarks: nothing of the node's own client is in it.

`node` is anything with the attributes of tests.support.networks.LndNode.
"""

import hashlib
import os
from typing import Self

import grpc

from protos.invoicesrpc import invoices_pb2_grpc
from protos.lnrpc import lightning_pb2, lightning_pb2_grpc
from protos.routerrpc import router_pb2, router_pb2_grpc

PREIMAGE_RECORD = 5482373484
PAYMENT_SECONDS = 60
ENDED = (lightning_pb2.Payment.SUCCEEDED, lightning_pb2.Payment.FAILED)


class MacaroonPlugin(grpc.AuthMetadataPlugin):
    def __init__(self, macaroon_hex: str):
        self._metadata = (("macaroon", macaroon_hex),)

    def __call__(self, context, callback):
        callback(self._metadata, None)


def secure_channel(node, *, macaroon_hex: str | None = None) -> grpc.aio.Channel:
    """TLS with the node's own certificate; every call carries the macaroon. "" sends none."""
    if macaroon_hex is None:
        macaroon_hex = node.macaroon_path.read_bytes().hex()
    credentials = grpc.ssl_channel_credentials(node.tls_cert_path.read_bytes())
    if macaroon_hex:
        plugin = grpc.metadata_call_credentials(MacaroonPlugin(macaroon_hex))
        credentials = grpc.composite_channel_credentials(credentials, plugin)
    options = (("grpc.max_receive_message_length", 64 * 2**20),)
    return grpc.aio.secure_channel(f"{node.host}:{node.port}", credentials, options=options)


def keysend_request(
    dest_pubkey_hex: str,
    records: dict[int, bytes],
    *,
    amount_sat: int = 1,
    fee_limit_sat: int = 10,
    preimage: bytes | None = None,
    no_inflight_updates: bool = True,
) -> router_pb2.SendPaymentRequest:
    preimage = os.urandom(32) if preimage is None else preimage
    return router_pb2.SendPaymentRequest(
        dest=bytes.fromhex(dest_pubkey_hex),
        amt=amount_sat,
        payment_hash=hashlib.sha256(preimage).digest(),
        dest_custom_records={**records, PREIMAGE_RECORD: preimage},
        dest_features=[lightning_pb2.TLV_ONION_OPT],
        fee_limit_sat=fee_limit_sat,
        timeout_seconds=PAYMENT_SECONDS,
        no_inflight_updates=no_inflight_updates,
    )


class ChannelClient:
    """The three stubs on a channel to one node, and the few calls that need more than a line.

    An async context manager, which closes the channel; or call `close()`.
    """

    def __init__(self, channel: grpc.aio.Channel):
        self.channel = channel
        self.lightning = lightning_pb2_grpc.LightningStub(self.channel)
        self.router = router_pb2_grpc.RouterStub(self.channel)
        self.invoices = invoices_pb2_grpc.InvoicesStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info) -> None:
        await self.close()

    async def close(self) -> None:
        await self.channel.close()

    async def keysend(
        self,
        dest_pubkey_hex: str,
        records: dict[int, bytes],
        amount_sat: int = 1,
        fee_limit_sat: int = 10,
        preimage: bytes | None = None,
    ) -> lightning_pb2.Payment:
        """Pays and waits for the end: SUCCEEDED or FAILED."""
        request = keysend_request(
            dest_pubkey_hex, records, amount_sat=amount_sat, fee_limit_sat=fee_limit_sat, preimage=preimage
        )
        return await self.pay(request)

    async def pay(self, request: router_pb2.SendPaymentRequest) -> lightning_pb2.Payment:
        return await self._end(self.router.SendPaymentV2(request))

    async def track(self, payment_hash: bytes) -> lightning_pb2.Payment:
        request = router_pb2.TrackPaymentRequest(payment_hash=payment_hash, no_inflight_updates=True)
        return await self._end(self.router.TrackPaymentV2(request))

    def subscribe(self, *, add_index: int = 0, settle_index: int = 0) -> grpc.aio.UnaryStreamCall:
        """The invoice stream: `async for invoice in client.subscribe()`; end it with its `cancel()`.

        lnd does not tell when it has registered the subscriber: what is paid at once may be missed.
        """
        request = lightning_pb2.InvoiceSubscription(add_index=add_index, settle_index=settle_index)
        return self.lightning.SubscribeInvoices(request)

    async def _end(self, call) -> lightning_pb2.Payment:
        async for payment in call:
            if payment.status in ENDED:
                return payment
        raise AssertionError("the stream ended before the payment did")


class BareClient(ChannelClient):
    """On a channel of its own to a running node."""

    def __init__(self, node, *, macaroon_hex: str | None = None):
        super().__init__(secure_channel(node, macaroon_hex=macaroon_hex))
        self.node = node
