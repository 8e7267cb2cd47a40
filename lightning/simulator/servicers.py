"""lnd's gRPC services of one node: reads requests, asks the network, writes responses. No rules of its own but those of
single calls. Amounts in msat unless named _sat.
"""

import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from lightning.simulator import bolt11, signing
from lightning.simulator import graph as rules
from lightning.simulator.bakery import PERMISSIONS, Bakery
from lightning.simulator.errors import (
    CallError,
    amount_msat,
    need_hash,
    need_preimage,
    need_vertex,
    need_vertex_hex,
    not_found,
)
from lightning.simulator.graph import Channel
from lightning.simulator.invoices import FINAL, Order
from lightning.simulator.messages import Messages
from lightning.simulator.network import Network, Node
from lightning.simulator.payments import ENDED
from lightning.simulator.services import Services
from protos.invoicesrpc import invoices_pb2, invoices_pb2_grpc
from protos.lnrpc import lightning_pb2, lightning_pb2_grpc
from protos.routerrpc import router_pb2, router_pb2_grpc

VERSION = "simulated-0.1 (lnd API 0.21)"
NETWORK_NAME = "simulated"
KEYSEND_FEATURE = 55
FEATURES = {9: "tlv-onion", 14: "payment-addr", 17: "multi-path-payments"}
DEFAULT_PAGE = 100


Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]


def unary(
    method: Callable[[Any, Request], Response],
) -> Callable[[Any, Request, Context], Awaitable[Response]]:
    @functools.wraps(method)
    async def call(self: Any, request: Request, context: Context) -> Response:
        try:
            return method(self, request)
        except CallError as error:
            await context.abort(error.code, error.text)

    return call


def streaming(
    method: Callable[[Any, Request], AsyncIterator[Response]],
) -> Callable[[Any, Request, Context], AsyncIterator[Response]]:
    @functools.wraps(method)
    async def call(self: Any, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async for response in method(self, request):
                yield response
        except CallError as error:
            await context.abort(error.code, error.text)

    return call


class LightningServicer(lightning_pb2_grpc.LightningServicer):
    def __init__(self, node: Node, services: Services, bakery: Bakery, address: str):
        self._node = node
        self._bakery = bakery
        self._network: Network = services.network
        self._invoices = services.invoices
        self._payments = services.payments
        self._messages: Messages = services.messages
        self._address = address

    @unary
    def GetInfo(self, request: lightning_pb2.GetInfoRequest) -> lightning_pb2.GetInfoResponse:
        node, graph = self._node, self._network.graph
        pubkey = node.pubkey.hex()
        return lightning_pb2.GetInfoResponse(
            identity_pubkey=pubkey,
            alias=node.name,
            num_active_channels=sum(graph.active(channel) for channel in graph.of(node.id)),
            num_peers=len(graph.peers(node.id)),
            block_height=self._network.block_height,
            synced_to_chain=node.synced,
            synced_to_graph=node.synced,
            uris=[f"{pubkey}@{self._address}"],
            best_header_timestamp=int(time.time()),
            version=VERSION,
            chains=[lightning_pb2.Chain(network=NETWORK_NAME)],
            features=_features(node),
        )

    @unary
    def ChannelBalance(
        self, request: lightning_pb2.ChannelBalanceRequest
    ) -> lightning_pb2.ChannelBalanceResponse:
        channels, node = self._network.graph.of(self._node.id), self._node.id
        local = sum(channel.balances[channel.side(node)] for channel in channels)
        remote = sum(channel.balances[1 - channel.side(node)] for channel in channels)
        return lightning_pb2.ChannelBalanceResponse(
            local_balance=_amount(local), remote_balance=_amount(remote)
        )

    @unary
    def ListChannels(self, request: lightning_pb2.ListChannelsRequest) -> lightning_pb2.ListChannelsResponse:
        peer = need_vertex(request.peer) if request.peer else None
        graph, response = self._network.graph, lightning_pb2.ListChannelsResponse()
        htlcs = self._payments.htlcs_of(self._node)
        for channel in graph.of(self._node.id):
            remote = self._network.by_id[channel.other(self._node.id)].pubkey
            if (peer and remote != peer) or (request.active_only and not graph.active(channel)):
                continue
            response.channels.append(self._channel(channel, remote, htlcs.get(channel.id, [])))
        return response

    @unary
    def PendingChannels(
        self, request: lightning_pb2.PendingChannelsRequest
    ) -> lightning_pb2.PendingChannelsResponse:
        return lightning_pb2.PendingChannelsResponse()

    def _channel(
        self, channel: Channel, remote: bytes, htlcs: list[lightning_pb2.HTLC]
    ) -> lightning_pb2.Channel:
        side = channel.side(self._node.id)
        constraints = lightning_pb2.ChannelConstraints(chan_reserve_sat=channel.reserve_sat)
        return lightning_pb2.Channel(
            active=self._network.graph.active(channel),
            remote_pubkey=remote.hex(),
            chan_id=channel.id,
            capacity=channel.capacity_sat,
            local_balance=channel.balances[side] // 1000,
            remote_balance=channel.balances[1 - side] // 1000,
            pending_htlcs=htlcs,
            lifetime=self._node.uptime_seconds,
            private=channel.private,
            local_constraints=constraints,
            remote_constraints=constraints,
            peer_scid_alias=channel.alias if channel.private else 0,
        )

    @unary
    def GetChanInfo(self, request: lightning_pb2.ChanInfoRequest) -> lightning_pb2.ChannelEdge:
        if not request.chan_id:
            raise CallError("specify either chan_id or chan_point")
        channel = self._network.graph.channels.get(request.chan_id)
        if channel is None or (channel.private and self._node.id not in channel.nodes):
            raise not_found("edge not found")
        first, second = sorted(self._network.by_id[node].pubkey.hex() for node in channel.nodes)
        policy = lightning_pb2.RoutingPolicy(
            time_lock_delta=rules.TIME_LOCK_DELTA,
            fee_base_msat=rules.BASE_FEE_MSAT,
            fee_rate_milli_msat=rules.FEE_RATE_PPM,
        )
        return lightning_pb2.ChannelEdge(
            node1_pub=first, node2_pub=second, node1_policy=policy, node2_policy=policy
        )

    @unary
    def GetNodeInfo(self, request: lightning_pb2.NodeInfoRequest) -> lightning_pb2.NodeInfo:
        node = self._network.by_pubkey.get(need_vertex_hex(request.pub_key))
        graph = self._network.graph
        if node is None or not graph.knows(self._node.id, node.id):
            raise not_found("unable to find node")
        seen = [
            channel for channel in graph.of(node.id) if not channel.private or self._node.id in channel.nodes
        ]
        return lightning_pb2.NodeInfo(
            node=lightning_pb2.LightningNode(
                pub_key=request.pub_key, alias=node.name, features=_features(node)
            ),
            num_channels=len(seen),
        )

    @unary
    def QueryRoutes(self, request: lightning_pb2.QueryRoutesRequest) -> lightning_pb2.QueryRoutesResponse:
        hops = self._payments.query_route(self._node, request, need_vertex_hex(request.pub_key))
        reached = [self._network.graph.channels[hop.channel].other(hop.sender) for hop in hops]
        route = lightning_pb2.Route(
            hops=[
                lightning_pb2.Hop(chan_id=hop.channel, pub_key=self._network.by_id[node].pubkey.hex())
                for hop, node in zip(hops, reached, strict=True)
            ],
            total_fees_msat=hops[0].amount - hops[-1].amount,
        )
        return lightning_pb2.QueryRoutesResponse(routes=[route], success_prob=0.95)

    @unary
    def SignMessage(self, request: lightning_pb2.SignMessageRequest) -> lightning_pb2.SignMessageResponse:
        return lightning_pb2.SignMessageResponse(signature=signing.sign_message(self._node.key, request.msg))

    @unary
    def VerifyMessage(
        self, request: lightning_pb2.VerifyMessageRequest
    ) -> lightning_pb2.VerifyMessageResponse:
        pubkey = signing.recover_signer(request.msg, request.signature)
        if pubkey is None:
            return lightning_pb2.VerifyMessageResponse(valid=False)
        signer = self._network.by_pubkey.get(pubkey)
        valid = signer is not None and self._network.graph.knows(self._node.id, signer.id)
        return lightning_pb2.VerifyMessageResponse(valid=valid, pubkey=pubkey.hex())

    @unary
    def AddInvoice(self, request: lightning_pb2.Invoice) -> lightning_pb2.AddInvoiceResponse:
        invoice = self._invoices.add(self._node, request)
        return lightning_pb2.AddInvoiceResponse(
            r_hash=invoice.r_hash,
            payment_request=invoice.payment_request,
            add_index=invoice.add_index,
            payment_addr=invoice.payment_addr,
        )

    @unary
    def LookupInvoice(self, request: lightning_pb2.PaymentHash) -> lightning_pb2.Invoice:
        if len(request.r_hash) != 32:
            raise CallError(f"payment hash must be exactly 32 bytes, is instead {len(request.r_hash)}")
        return self._invoices.lookup(self._node, request.r_hash)

    @unary
    def ListInvoices(self, request: lightning_pb2.ListInvoiceRequest) -> lightning_pb2.ListInvoiceResponse:
        store = self._network.store
        page = store.invoices_before if request.reversed else store.invoices_after
        count = request.num_max_invoices or DEFAULT_PAGE
        invoices = page(self._node.id, request.index_offset, count, pending=request.pending_only)
        return lightning_pb2.ListInvoiceResponse(
            invoices=invoices,
            first_index_offset=invoices[0].add_index if invoices else 0,
            last_index_offset=invoices[-1].add_index if invoices else 0,
        )

    @streaming
    async def SubscribeInvoices(
        self, request: lightning_pb2.InvoiceSubscription
    ) -> AsyncIterator[lightning_pb2.Invoice]:
        stream = self._invoices.subscribe(self._node, request.add_index, request.settle_index)
        try:
            async for invoice in stream:
                yield invoice
        finally:
            stream.close()

    @unary
    def DecodePayReq(self, request: lightning_pb2.PayReqString) -> lightning_pb2.PayReq:
        asked = bolt11.decode(request.pay_req)
        return lightning_pb2.PayReq(
            destination=asked.destination.hex(),
            payment_hash=asked.payment_hash.hex(),
            num_satoshis=asked.amount // 1000,
            num_msat=asked.amount,
            timestamp=asked.timestamp,
            expiry=asked.expiry,
            description=asked.description,
            cltv_expiry=asked.cltv_expiry,
            payment_addr=asked.payment_addr,
        )

    @unary
    def BakeMacaroon(self, request: lightning_pb2.BakeMacaroonRequest) -> lightning_pb2.BakeMacaroonResponse:
        raw = self._bakery.bake([(one.entity, one.action) for one in request.permissions])
        return lightning_pb2.BakeMacaroonResponse(macaroon=raw.hex())

    @unary
    def CheckMacaroonPermissions(
        self, request: lightning_pb2.CheckMacPermRequest
    ) -> lightning_pb2.CheckMacPermResponse:
        wanted = [(one.entity, one.action) for one in request.permissions]
        if text := self._bakery.refusal(request.macaroon.hex(), request.fullMethod, wanted):
            raise CallError(text, grpc.StatusCode.INVALID_ARGUMENT)
        return lightning_pb2.CheckMacPermResponse(valid=True)

    @unary
    def ListPermissions(
        self, request: lightning_pb2.ListPermissionsRequest
    ) -> lightning_pb2.ListPermissionsResponse:
        response = lightning_pb2.ListPermissionsResponse()
        for method, (entity, action) in PERMISSIONS.items():
            response.method_permissions[method].permissions.add(entity=entity, action=action)
        return response

    @unary
    def SendCustomMessage(
        self, request: lightning_pb2.SendCustomMessageRequest
    ) -> lightning_pb2.SendCustomMessageResponse:
        self._messages.send(self._node, need_vertex(request.peer), request.type, request.data)
        return lightning_pb2.SendCustomMessageResponse(status="message sent successfully")

    @streaming
    async def SubscribeCustomMessages(
        self, request: lightning_pb2.SubscribeCustomMessagesRequest
    ) -> AsyncIterator[lightning_pb2.CustomMessage]:
        stream = self._node.streams.open("messages")
        try:
            async for message in stream:
                yield message
        finally:
            stream.close()


class RouterServicer(router_pb2_grpc.RouterServicer):
    def __init__(self, node: Node, services: Services):
        self._node = node
        self._payments = services.payments

    @streaming
    async def SendPaymentV2(
        self, request: router_pb2.SendPaymentRequest
    ) -> AsyncIterator[lightning_pb2.Payment]:
        attempt, stream = self._payments.send(self._node, request)
        ended = False
        try:
            async for payment in stream:
                ended = payment.status in ENDED
                if ended or not request.no_inflight_updates:
                    yield payment
                if ended:
                    return
        finally:
            stream.close()
            if request.cancelable and not ended:
                self._payments.cancel(attempt)

    @streaming
    async def TrackPaymentV2(
        self, request: router_pb2.TrackPaymentRequest
    ) -> AsyncIterator[lightning_pb2.Payment]:
        stream = self._payments.track(self._node, need_hash(request.payment_hash))
        try:
            async for payment in stream:
                ended = payment.status in ENDED
                if ended or not request.no_inflight_updates:
                    yield payment
                if ended:
                    return
        finally:
            stream.close()


class InvoicesServicer(invoices_pb2_grpc.InvoicesServicer):
    def __init__(self, node: Node, services: Services):
        self._node = node
        self._invoices = services.invoices
        self._payments = services.payments

    @unary
    def AddHoldInvoice(self, request: invoices_pb2.AddHoldInvoiceRequest) -> invoices_pb2.AddHoldInvoiceResp:
        order = Order(
            payment_hash=need_hash(request.hash),
            preimage=b"",
            amount=amount_msat(request.value, request.value_msat),
            memo=request.memo,
            expiry=request.expiry,
            cltv_expiry=request.cltv_expiry,
            private=request.private,
        )
        invoice = self._invoices.add_order(self._node, order)
        return invoices_pb2.AddHoldInvoiceResp(
            payment_request=invoice.payment_request,
            add_index=invoice.add_index,
            payment_addr=invoice.payment_addr,
        )

    @streaming
    async def SubscribeSingleInvoice(
        self, request: invoices_pb2.SubscribeSingleInvoiceRequest
    ) -> AsyncIterator[lightning_pb2.Invoice]:
        stream = self._invoices.subscribe_single(self._node, need_hash(request.r_hash))
        try:
            async for invoice in stream:
                yield invoice
                if invoice.state in FINAL:
                    return
        finally:
            stream.close()

    @unary
    def SettleInvoice(self, request: invoices_pb2.SettleInvoiceMsg) -> invoices_pb2.SettleInvoiceResp:
        self._payments.settle_invoice(self._node, need_preimage(request.preimage))
        return invoices_pb2.SettleInvoiceResp()

    @unary
    def CancelInvoice(self, request: invoices_pb2.CancelInvoiceMsg) -> invoices_pb2.CancelInvoiceResp:
        self._payments.cancel_invoice(self._node, need_hash(request.payment_hash))
        return invoices_pb2.CancelInvoiceResp()


def add_services(
    server: grpc.aio.Server, node: Node, services: Services, bakery: Bakery, address: str
) -> None:
    lightning_pb2_grpc.add_LightningServicer_to_server(
        LightningServicer(node, services, bakery, address), server
    )
    router_pb2_grpc.add_RouterServicer_to_server(RouterServicer(node, services), server)
    invoices_pb2_grpc.add_InvoicesServicer_to_server(InvoicesServicer(node, services), server)


def _amount(msat: int) -> lightning_pb2.Amount:
    return lightning_pb2.Amount(sat=msat // 1000, msat=msat)


def _features(node: Node) -> dict[int, lightning_pb2.Feature]:
    names = {**FEATURES, **({KEYSEND_FEATURE: "keysend"} if node.accepts_keysend else {})}
    return {bit: lightning_pb2.Feature(name=name, is_known=True) for bit, name in names.items()}
