"""THE table of the API: one row an operation. REST views, gRPC servicers and forwarding are built from it.

A function takes the Doors it is called through and the checked request's fields; it answers with a dict that has the
reply message's fields. `reads_only` rows need nothing but the database; all others run in the runimpd process, once lnd
has answered there.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from invoices.issuing import DEFAULT_EXPIRES_SECONDS
from nodeapi import (
    calls,
    federations,
    invoices,
    peers,
    serializers,
    serializers_federation,
    serializers_invoices,
    serializers_peers,
    serializers_signing,
    serializers_socket,
    serializers_vpn,
    signing,
    vpns,
)
from nodeapi.engine import Engine
from nodeapi.relay import calls as relay_calls

Function = Callable[..., Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Plain:
    """The field, and the content types it may have; the reply's `content_type` says which."""

    field: str
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Operation:
    service: str
    method: str
    http: str
    path: str
    request: serializers.RequestSerializer
    reply: serializers.ReplySerializer
    function: Function
    scope: str
    reads_only: bool = False
    # Answered by runimpd before lnd has answered, too.
    needs_engine: bool = True
    # Takes an Idempotency-Key: its function gets the `claim`.
    once: bool = False
    # What a field that is left out means, where the serializer does not know: written out, it is the same request.
    defaults: Mapping[str, Callable[[Engine], Any]] = field(default_factory=dict)
    # REST answers with one field of the reply alone, instead of JSON.
    plain: Plain | None = None

    @property
    def rpc_path(self) -> str:
        return f"/{self.service}/{self.method}"

    @property
    def request_class(self) -> type[Message]:
        return self.request.Meta.proto_class

    @property
    def reply_class(self) -> type[Message]:
        return self.reply.Meta.proto_class


OPERATIONS = (
    Operation(
        service="messaging.Messaging",
        method="SendMessage",
        http="POST",
        path="/v1/message/send",
        request=serializers.SendMessageRequest(),
        reply=serializers.SendMessageResponse(),
        function=calls.send_message,
        scope="send",
        once=True,
        defaults={"expires_in": lambda engine: engine.limits.expires_seconds},
    ),
    Operation(
        service="messaging.Messaging",
        method="Broadcast",
        http="POST",
        path="/v1/message/broadcast",
        request=serializers_federation.BroadcastRequest(),
        reply=serializers_federation.BroadcastResponse(),
        function=federations.broadcast,
        scope="send",
        once=True,
        defaults={"expires_in": lambda engine: engine.limits.expires_seconds},
    ),
    Operation(
        service="federate.Federate",
        method="RequestFederate",
        http="POST",
        path="/v1/federate/request",
        request=serializers_federation.RequestFederateRequest(),
        reply=serializers_federation.RequestFederateResponse(),
        function=federations.request_federate,
        scope="send",
        once=True,
    ),
    Operation(
        service="federate.Federate",
        method="LeaveFederation",
        http="POST",
        path="/v1/federate/leave",
        request=serializers_federation.LeaveFederationRequest(),
        reply=serializers_federation.LeaveFederationResponse(),
        function=federations.leave_federation,
        scope="send",
        once=True,
    ),
    Operation(
        service="federate.Federate",
        method="ListFederations",
        http="GET",
        path="/v1/federate",
        request=serializers_federation.ListFederationsRequest(),
        reply=serializers_federation.ListFederationsResponse(),
        function=federations.list_federations,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="messaging.Messaging",
        method="GetMessage",
        http="GET",
        path="/v1/message/{id}",
        request=serializers.GetMessageRequest(),
        reply=serializers.GetMessageResponse(),
        function=calls.get_message,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="messaging.Messaging",
        method="ListMessages",
        http="GET",
        path="/v1/messages",
        request=serializers.ListMessagesRequest(),
        reply=serializers.ListMessagesResponse(),
        function=calls.list_messages,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="messaging.Messaging",
        method="EstimateMessage",
        http="GET",
        path="/v1/message/estimate",
        request=serializers.EstimateMessageRequest(),
        reply=serializers.EstimateMessageResponse(),
        function=calls.estimate_message,
        scope="read",
    ),
    Operation(
        service="messaging.Messaging",
        method="ListMessagePayments",
        http="GET",
        path="/v1/message/{id}/payments",
        request=serializers.ListMessagePaymentsRequest(),
        reply=serializers.ListMessagePaymentsResponse(),
        function=calls.list_message_payments,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="messaging.Messaging",
        method="GiveUpMessage",
        http="POST",
        path="/v1/message/{id}/give-up",
        request=serializers.GiveUpMessageRequest(),
        reply=serializers.GiveUpMessageResponse(),
        function=calls.give_up_message,
        scope="admin",
    ),
    Operation(
        service="messaging.Messaging",
        method="ListPeers",
        http="GET",
        path="/v1/peers",
        request=serializers_peers.ListPeersRequest(),
        reply=serializers_peers.ListPeersResponse(),
        function=peers.list_peers,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="vpn.VPN",
        method="RequestQuote",
        http="POST",
        path="/v1/vpn/quote",
        request=serializers_vpn.RequestQuoteRequest(),
        reply=serializers_vpn.RequestQuoteResponse(),
        function=vpns.request_quote,
        scope="send",
        once=True,
    ),
    Operation(
        service="vpn.VPN",
        method="AcceptContract",
        http="POST",
        path="/v1/vpn/contract",
        request=serializers_vpn.AcceptContractRequest(),
        reply=serializers_vpn.AcceptContractResponse(),
        function=vpns.accept_contract,
        scope="pay",
        once=True,
    ),
    Operation(
        service="vpn.VPN",
        method="RefreshContract",
        http="POST",
        path="/v1/vpn/refresh",
        request=serializers_vpn.RefreshContractRequest(),
        reply=serializers_vpn.RefreshContractResponse(),
        function=vpns.refresh_contract,
        scope="pay",
        once=True,
    ),
    Operation(
        service="vpn.VPN",
        method="ListLeases",
        http="GET",
        path="/v1/vpn/leases",
        request=serializers_vpn.ListLeasesRequest(),
        reply=serializers_vpn.ListLeasesResponse(),
        function=vpns.list_leases,
        scope="read",
        reads_only=True,
    ),
    Operation(
        service="vpn.VPN",
        method="GetLeaseConfig",
        http="GET",
        path="/v1/vpn/leases/{id}/config",
        request=serializers_vpn.GetLeaseConfigRequest(),
        reply=serializers_vpn.GetLeaseConfigResponse(),
        function=vpns.get_lease_config,
        scope="pay",
        plain=Plain("config", ("text/plain", "image/svg+xml")),
    ),
    Operation(
        service="node.Node",
        method="GetInfo",
        http="GET",
        path="/v1/node",
        request=serializers.GetInfoRequest(),
        reply=serializers.GetInfoResponse(),
        function=calls.get_info,
        scope="read",
        needs_engine=False,
    ),
    Operation(
        service="socket.Socket",
        method="SendSocket",
        http="POST",
        path="/v1/socket/sendRequest",
        request=serializers_socket.SendSocketRequest(),
        reply=serializers_socket.SendSocketResponse(),
        function=relay_calls.send_socket,
        scope="send",
        once=True,
    ),
    Operation(
        service="socket.Socket",
        method="StartSocket",
        http="POST",
        path="/v1/socket/start",
        request=serializers_socket.StartSocketRequest(),
        reply=serializers_socket.StartSocketResponse(),
        function=relay_calls.start_socket,
        scope="send",
    ),
    Operation(
        service="socket.Socket",
        method="StopSocket",
        http="POST",
        path="/v1/socket/stop",
        request=serializers_socket.StopSocketRequest(),
        reply=serializers_socket.StopSocketResponse(),
        function=relay_calls.stop_socket,
        scope="send",
    ),
    Operation(
        service="signing.Signing",
        method="SignMessage",
        http="POST",
        path="/v1/sign",
        request=serializers_signing.SignRequest(),
        reply=serializers_signing.SignResponse(),
        function=signing.sign_message,
        scope="send",
    ),
    Operation(
        service="signing.Signing",
        method="VerifySignature",
        http="POST",
        path="/v1/verify",
        request=serializers_signing.VerifyRequest(),
        reply=serializers_signing.VerifyResponse(),
        function=signing.verify_signature,
        scope="read",
    ),
    Operation(
        service="lightning.Lightning",
        method="GenerateInvoice",
        http="POST",
        path="/v1/lightning/generateinvoice",
        request=serializers_invoices.GenerateInvoiceRequest(),
        reply=serializers_invoices.GenerateInvoiceResponse(),
        function=invoices.generate_invoice,
        scope="send",
        once=True,
        defaults={"expires_in": lambda _: DEFAULT_EXPIRES_SECONDS},
    ),
    Operation(
        service="lightning.Lightning",
        method="PayInvoice",
        http="POST",
        path="/v1/lightning/payinvoice",
        request=serializers_invoices.PayInvoiceRequest(),
        reply=serializers_invoices.PayInvoiceResponse(),
        function=invoices.pay_invoice,
        scope="pay",
        once=True,
        defaults={"timeout": lambda _: serializers_invoices.MAX_WAIT_SECONDS},
    ),
    Operation(
        service="lightning.Lightning",
        method="CheckInvoice",
        http="POST",
        path="/v1/lightning/checkinvoice",
        request=serializers_invoices.CheckInvoiceRequest(),
        reply=serializers_invoices.CheckInvoiceResponse(),
        function=invoices.check_invoice,
        scope="read",
    ),
    Operation(
        service="websocket.Websocket",
        method="Send",
        http="POST",
        path="/v1/websocket/send",
        request=serializers.SendToStreamRequest(),
        reply=serializers.SendToStreamResponse(),
        function=calls.send_to_stream,
        scope="send",
        once=True,
    ),
)
