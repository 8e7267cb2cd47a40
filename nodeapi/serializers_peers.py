"""The messages of ListPeers."""

from rest_framework import serializers

from nodeapi.serializers import ReplySerializer, RequestSerializer
from protos import messaging_pb2

_LIMIT = "must be 1 to 1000"


class ListPeersRequest(RequestSerializer):
    limit = serializers.IntegerField(
        default=100, min_value=1, max_value=1000, error_messages={"min_value": _LIMIT, "max_value": _LIMIT}
    )

    class Meta:
        proto_class = messaging_pb2.ListPeersRequest


class ListPeersResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.ListPeersResponse
