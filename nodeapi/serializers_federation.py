"""The messages of federate.Federate, and of Broadcast."""

from rest_framework import serializers

from federation.services import ALL
from federation.states import State
from nodeapi.serializers import (
    EXPIRES_BOUNDS,
    MAX_EXPIRES_SECONDS,
    BytesField,
    MaxCostField,
    PubkeyField,
    ReplySerializer,
    RequestSerializer,
    SatField,
)
from protos import federate_pb2, messaging_pb2

_STATES = (*State.values, ALL)
_LIMIT = "must be 1 to 1000"


class RequestFederateRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = federate_pb2.RequestFederateRequest


class RequestFederateResponse(ReplySerializer):
    class Meta:
        proto_class = federate_pb2.RequestFederateResponse


class LeaveFederationRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages={"required": "is missing"})
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = federate_pb2.LeaveFederationRequest


class LeaveFederationResponse(ReplySerializer):
    class Meta:
        proto_class = federate_pb2.LeaveFederationResponse


class ListFederationsRequest(RequestSerializer):
    state = serializers.ChoiceField(
        default="", choices=_STATES, error_messages={"invalid_choice": f"must be one of {', '.join(_STATES)}"}
    )
    pubkey = PubkeyField(default="")
    limit = serializers.IntegerField(
        default=1000, min_value=1, max_value=1000, error_messages={"min_value": _LIMIT, "max_value": _LIMIT}
    )

    class Meta:
        proto_class = federate_pb2.ListFederationsRequest


class ListFederationsResponse(ReplySerializer):
    class Meta:
        proto_class = federate_pb2.ListFederationsResponse


class BroadcastRequest(RequestSerializer):
    msg = BytesField(error_messages={"required": "is missing or empty"})
    amount = SatField()
    expires_in = serializers.IntegerField(
        default=None,
        min_value=1,
        max_value=MAX_EXPIRES_SECONDS,
        error_messages={"min_value": EXPIRES_BOUNDS, "max_value": EXPIRES_BOUNDS},
    )
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = messaging_pb2.BroadcastRequest


class BroadcastResponse(ReplySerializer):
    class Meta:
        proto_class = messaging_pb2.BroadcastResponse
