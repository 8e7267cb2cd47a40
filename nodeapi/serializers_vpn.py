"""The messages of vpn.VPN."""

from typing import Any

from rest_framework import serializers

from nodeapi.serializers import MaxCostField, PubkeyField, ReplySerializer, RequestSerializer, UUIDField
from protos import vpn_pb2
from vpn.bodies import MAX_NONCE_CHARACTERS
from vpn.services import ALL
from vpn.states import BoughtState, Role

_STATES = (*BoughtState.values, ALL)
_ROLES = (*Role.values, ALL)
_LIMIT = "must be 1 to 1000"
_MISSING: dict[str, Any] = {"required": "is missing"}


class NonceField(serializers.RegexField):
    def __init__(self) -> None:
        super().__init__(
            rf"\A[0-9A-Za-z_-]{{1,{MAX_NONCE_CHARACTERS}}}\Z",
            error_messages={"invalid": "is none; must be that of a quote", **_MISSING},
        )


class PriceField(serializers.RegexField):
    def __init__(self) -> None:
        super().__init__(
            r"\A[1-9][0-9]{0,15}\Z",
            error_messages={"invalid": "must be a whole number of sat from 1 on, such as 100", **_MISSING},
        )


class RequestQuoteRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages=_MISSING)
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = vpn_pb2.RequestQuoteRequest


class RequestQuoteResponse(ReplySerializer):
    class Meta:
        proto_class = vpn_pb2.RequestQuoteResponse


class AcceptContractRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages=_MISSING)
    nonce = NonceField()
    price = PriceField()
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = vpn_pb2.AcceptContractRequest


class AcceptContractResponse(ReplySerializer):
    class Meta:
        proto_class = vpn_pb2.AcceptContractResponse


class RefreshContractRequest(RequestSerializer):
    pubkey = PubkeyField(error_messages=_MISSING)
    nonce = NonceField()
    price = PriceField()
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = vpn_pb2.RefreshContractRequest


class RefreshContractResponse(ReplySerializer):
    class Meta:
        proto_class = vpn_pb2.RefreshContractResponse


class ListLeasesRequest(RequestSerializer):
    state = serializers.ChoiceField(
        default="", choices=_STATES, error_messages={"invalid_choice": f"must be one of {', '.join(_STATES)}"}
    )
    pubkey = PubkeyField(default="")
    limit = serializers.IntegerField(
        default=100, min_value=1, max_value=1000, error_messages={"min_value": _LIMIT, "max_value": _LIMIT}
    )
    role = serializers.ChoiceField(
        default="", choices=_ROLES, error_messages={"invalid_choice": f"must be one of {', '.join(_ROLES)}"}
    )

    class Meta:
        proto_class = vpn_pb2.ListLeasesRequest


class ListLeasesResponse(ReplySerializer):
    class Meta:
        proto_class = vpn_pb2.ListLeasesResponse


class GetLeaseConfigRequest(RequestSerializer):
    id = UUIDField(error_messages=_MISSING)
    format = serializers.ChoiceField(
        default="", choices=("qr",), error_messages={"invalid_choice": "must be qr, or left out"}
    )

    class Meta:
        proto_class = vpn_pb2.GetLeaseConfigRequest


class GetLeaseConfigResponse(ReplySerializer):
    class Meta:
        proto_class = vpn_pb2.GetLeaseConfigResponse
