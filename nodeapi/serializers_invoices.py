"""The messages of the service lightning: invoices."""

from typing import Any

from rest_framework import serializers

from nodeapi.serializers import MAX_SAT, MaxCostField, ReplySerializer, RequestSerializer, TextField
from protos import lightning_pb2

# BOLT11: a field has at most 1,023 groups of five bits.
MAX_MEMO_BYTES = 639
# lnd's bound.
MAX_EXPIRES_SECONDS = 31_536_000
MAX_WAIT_SECONDS = 60


class MemoField(TextField):
    def to_internal_value(self, data: Any) -> str:
        memo = super().to_internal_value(data)
        size = len(memo.encode())
        if size > MAX_MEMO_BYTES:
            raise serializers.ValidationError(f"has {size} bytes; an invoice has room for {MAX_MEMO_BYTES}")
        if "\0" in memo:
            raise serializers.ValidationError("must not contain the character NUL")
        return memo


def _open_amount() -> serializers.IntegerField:
    """Sat; 0 when it is left open."""
    errors: dict[str, Any] = {
        "min_value": "must not be negative",
        "max_value": "is more than there are satoshis",
    }
    return serializers.IntegerField(default=0, min_value=0, max_value=MAX_SAT, error_messages=errors)


def _seconds(most: int) -> serializers.IntegerField:
    text = f"must be 1 to {most} seconds"
    errors: dict[str, Any] = {"min_value": text, "max_value": text}
    return serializers.IntegerField(default=None, min_value=1, max_value=most, error_messages=errors)


class GenerateInvoiceRequest(RequestSerializer):
    amount = _open_amount()
    memo = MemoField(default="")
    expires_in = _seconds(MAX_EXPIRES_SECONDS)
    private = serializers.BooleanField(default=False)

    class Meta:
        proto_class = lightning_pb2.GenerateInvoiceRequest


class GenerateInvoiceResponse(ReplySerializer):
    class Meta:
        proto_class = lightning_pb2.GenerateInvoiceResponse


class PayInvoiceRequest(RequestSerializer):
    invoice = TextField(error_messages={"required": "is missing"})
    amount = _open_amount()
    timeout = _seconds(MAX_WAIT_SECONDS)
    max_cost_sat = MaxCostField()

    class Meta:
        proto_class = lightning_pb2.PayInvoiceRequest


class PayInvoiceResponse(ReplySerializer):
    class Meta:
        proto_class = lightning_pb2.PayInvoiceResponse


class CheckInvoiceRequest(RequestSerializer):
    invoice = TextField(error_messages={"required": "is missing"})

    class Meta:
        proto_class = lightning_pb2.CheckInvoiceRequest


class CheckInvoiceResponse(ReplySerializer):
    class Meta:
        proto_class = lightning_pb2.CheckInvoiceResponse
