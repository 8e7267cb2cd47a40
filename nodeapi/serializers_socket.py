"""The messages of socket.Socket."""

from nodeapi.serializers import MaxCostField, PubkeyField, ReplySerializer, RequestSerializer
from protos import socket_pb2


class SendSocketRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = socket_pb2.SendSocketRequest


class SendSocketResponse(ReplySerializer):
    class Meta:
        proto_class = socket_pb2.SendSocketResponse


class StartSocketRequest(RequestSerializer):
    class Meta:
        proto_class = socket_pb2.StartSocketRequest


class StartSocketResponse(ReplySerializer):
    class Meta:
        proto_class = socket_pb2.StartSocketResponse


class StopSocketRequest(RequestSerializer):
    class Meta:
        proto_class = socket_pb2.StopSocketRequest


class StopSocketResponse(ReplySerializer):
    class Meta:
        proto_class = socket_pb2.StopSocketResponse
