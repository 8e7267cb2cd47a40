"""One ProtoSerializer an operation message, used by REST and gRPC alike: what is checked of a request, and its reply."""

from typing import Any, ClassVar, cast

from django_grpc_framework.proto_serializers import BaseProtoSerializer, ProtoSerializer
from google.protobuf.message import Message
from rest_framework import serializers

from lightning import signature
from messaging.models import Direction, State
from nodeapi.errors import invalid
from protos import messaging_pb2, node_pb2, websocket_pb2

MAX_SAT = 21_000_000 * 100_000_000
# Receivers keep the parts of a message for an hour more than this.
MAX_EXPIRES_SECONDS = 86_400
EXPIRES_BOUNDS = f"must be 1 to {MAX_EXPIRES_SECONDS} seconds"


class RequestSerializer(ProtoSerializer):
    """Checks request messages. One instance serves all requests of its operation: it keeps nothing of them, and DRF
    copies every field for each new one.
    """

    def message_to_data(self, message: Message) -> dict[str, Any]:
        """Fields that were set; those left out keep the serializer's default. djangogrpcframework's own version passes
        an option that protobuf no longer has.
        """
        return {field.name: value for field, value in message.ListFields()}

    def check(self, message: Message) -> dict[str, Any]:
        """What the operation's function takes, or an ApiError that names the first field that is wrong."""
        try:
            return self.run_validation(self.message_to_data(message))
        except serializers.ValidationError as error:
            field, errors = next(iter(cast("dict[str, list[Any]]", error.detail).items()))
            raise invalid(field, " ".join(str(text) for text in errors)) from None


class ReplySerializer(BaseProtoSerializer):
    """A function's answer (a dict with the message's field names) as the message."""

    def data_to_message(self, data: dict[str, Any]) -> Message:
        return self.Meta.proto_class(**data)


class PubkeyField(serializers.CharField):
    """A node's key: 66 hexadecimal digits, a point on the curve. In lower case afterwards."""

    def to_internal_value(self, data: Any) -> str:
        try:
            raw = bytes.fromhex(data)
        except (TypeError, ValueError):
            raise serializers.ValidationError("must be 66 hexadecimal digits") from None
        if len(raw) != signature.PUBKEY_BYTES or len(data) != 2 * len(raw):
            raise serializers.ValidationError("must be 66 hexadecimal digits")
        if not signature.is_pubkey(raw):
            raise serializers.ValidationError("is not a public key: no such point on the curve")
        return raw.hex()


class BytesField(serializers.Field):
    def to_internal_value(self, data: Any) -> bytes:
        return bytes(data)


class TextField(serializers.Field):
    """Text as it is, spaces and all."""

    def to_internal_value(self, data: Any) -> str:
        return str(data)


class UUIDField(serializers.UUIDField):
    default_error_messages: ClassVar[dict[str, Any]] = {"invalid": "is not a UUID"}


class SatField(serializers.IntegerField):
    """An amount that is paid; 1 when it is left out."""

    def __init__(self) -> None:
        super().__init__(
            default=1,
            min_value=1,
            max_value=MAX_SAT,
            error_messages={
                "min_value": "must not be negative",
                "max_value": "is more than there are satoshis",
            },
        )


class MaxCostField(serializers.IntegerField):
    """The most that a call may cost (sat), fees included; None when it is left out."""

    def __init__(self) -> None:
        super().__init__(
            default=None,
            min_value=1,
            max_value=MAX_SAT,
            error_messages={
                "min_value": "must not be negative",
                "max_value": "is more than there are satoshis",
            },
        )


class SendMessageRequest(RequestSerializer):
    msg = BytesField(error_messages={"required": "is missing or empty"})
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    amount = SatField()
    reply_to_id = UUIDField(default=None)
    expires_in = serializers.IntegerField(
        default=None,
        min_value=1,
        max_value=MAX_EXPIRES_SECONDS,
        error_messages={"min_value": EXPIRES_BOUNDS, "max_value": EXPIRES_BOUNDS},
    )
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = messaging_pb2.SendMessageRequest


class SendMessageResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.SendMessageResponse


class GetMessageRequest(RequestSerializer):
    id = UUIDField(error_messages={"required": "is missing"})

    class Meta:
        proto_class = messaging_pb2.GetMessageRequest


class GetMessageResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.GetMessageResponse


class ListMessagesRequest(RequestSerializer):
    pubkey = PubkeyField(default="")
    service = serializers.CharField(default="", max_length=32)
    direction = serializers.ChoiceField(
        default="", choices=Direction.values, error_messages={"invalid_choice": "must be out or in"}
    )
    state = serializers.ChoiceField(
        default="",
        choices=State.values,
        error_messages={"invalid_choice": f"must be one of {', '.join(State.values)}"},
    )
    before = UUIDField(default=None)
    limit = serializers.IntegerField(
        default=100,
        min_value=1,
        max_value=1000,
        error_messages={"min_value": "must be 1 to 1000", "max_value": "must be 1 to 1000"},
    )

    class Meta:
        proto_class = messaging_pb2.ListMessagesRequest


class ListMessagesResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.ListMessagesResponse


class EstimateMessageRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    size = serializers.IntegerField(
        default=1, min_value=1, error_messages={"min_value": "must not be negative"}
    )
    amount = SatField()

    class Meta:
        proto_class = messaging_pb2.EstimateMessageRequest


class EstimateMessageResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.EstimateMessageResponse


class ListMessagePaymentsRequest(RequestSerializer):
    id = UUIDField(error_messages={"required": "is missing"})

    class Meta:
        proto_class = messaging_pb2.ListMessagePaymentsRequest


class ListMessagePaymentsResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.ListMessagePaymentsResponse


class GiveUpMessageRequest(RequestSerializer):
    id = UUIDField(error_messages={"required": "is missing"})

    class Meta:
        proto_class = messaging_pb2.GiveUpMessageRequest


class GiveUpMessageResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.GiveUpMessageResponse


class GetInfoRequest(RequestSerializer):
    class Meta:
        proto_class = node_pb2.GetInfoRequest


class GetInfoResponse(ReplySerializer):
    class Meta:
        proto_class = node_pb2.GetInfoResponse


class SendToStreamRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    data = BytesField(error_messages={"required": "is missing or empty"})
    amount = SatField()
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = websocket_pb2.SendRequest


class SendToStreamResponse(ReplySerializer):
    class Meta:
        proto_class = websocket_pb2.SendResponse
