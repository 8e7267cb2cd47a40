"""The messages of the service signing."""

from typing import Any

from nodeapi.serializers import PubkeyField, ReplySerializer, RequestSerializer, TextField
from protos import signing_pb2

_MISSING: dict[str, Any] = {"required": "is missing or empty"}


class SignRequest(RequestSerializer):
    msg = TextField(error_messages=_MISSING)

    class Meta:
        proto_class = signing_pb2.SignRequest


class SignResponse(ReplySerializer):
    class Meta:
        proto_class = signing_pb2.SignResponse


class VerifyRequest(RequestSerializer):
    msg = TextField(error_messages=_MISSING)
    signature = TextField(error_messages=_MISSING)
    pubkey = PubkeyField(default=None)

    class Meta:
        proto_class = signing_pb2.VerifyRequest


class VerifyResponse(ReplySerializer):
    class Meta:
        proto_class = signing_pb2.VerifyResponse
