"""What a keysend payment consists of. Pure: no input, no output.

Facts about lnd stand in its source (0.20 to 0.21): a keysend is one HTLC, its preimage travels in record 5482373484, and
all records share the 1,300 bytes of the onion with the hops of the route.
"""

import hashlib
import os
from collections.abc import Container
from dataclasses import dataclass, field

from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

PREIMAGE_RECORD = 5482373484
PREIMAGE_BYTES = 32
MIN_CUSTOM_RECORD = 65536
KEYSEND_FEATURE_BIT = 55

# Room for the value of one record at 1 sat over one hop, and what each further hop takes (one byte more from the second on
# at today's block heights). An amount of 65,536 msat or more takes a byte more at every hop, 2^24 msat another.
ROOM_ONE_HOP_BYTES = 1206
ROOM_PER_HOP_BYTES = 52
# A message that is divided may take this many hops more than its route has now.
HOPS_TO_SPARE = 2
# What fits even ten hops away: such a record is sent without asking lnd for a route first.
SAFE_ROOM_BYTES = 720


@dataclass(frozen=True, kw_only=True)
class KeysendPayment:
    """One payment attempt. `preimage` is fresh for each attempt; `records` are the custom records without the preimage."""

    destination: bytes
    preimage: bytes
    amount_msat: int
    fee_limit_msat: int
    records: dict[int, bytes] = field(repr=False)
    route_hints: tuple[lightning_pb2.RouteHint, ...] = ()

    @property
    def payment_hash(self) -> bytes:
        return payment_hash(self.preimage)


def new_preimage() -> bytes:
    """32 random bytes. Never used twice: whoever has seen a settled preimage can pay it again."""
    return os.urandom(PREIMAGE_BYTES)


def payment_hash(preimage: bytes) -> bytes:
    return hashlib.sha256(preimage).digest()


def fee_limit_msat(*, amount_msat: int, max_fee_sat: int, max_fee_percent: float) -> int:
    """The most that may be paid for routing: the larger of the fixed limit and the share of the amount."""
    return max(max_fee_sat * 1000, int(amount_msat * max_fee_percent / 100))


def room_bytes(*, hops: int, amount_msat: int) -> int:
    """About how many bytes a record may have over so many hops; below 0 where not even an empty one fits."""
    larger_amount_bytes = max(0, (amount_msat.bit_length() + 7) // 8 - 2)
    return ROOM_ONE_HOP_BYTES - ROOM_PER_HOP_BYTES * (hops - 1) - larger_amount_bytes * hops


def is_announced(features: Container[int]) -> bool:
    """Whether a node's features say that it takes keysend; an even bit says that it demands it."""
    return KEYSEND_FEATURE_BIT in features or KEYSEND_FEATURE_BIT - 1 in features


def send_request(payment: KeysendPayment, *, timeout_seconds: int) -> router_pb2.SendPaymentRequest:
    return router_pb2.SendPaymentRequest(
        dest=payment.destination,
        amt_msat=payment.amount_msat,
        payment_hash=payment.payment_hash,
        dest_custom_records={**payment.records, PREIMAGE_RECORD: payment.preimage},
        dest_features=[lightning_pb2.TLV_ONION_OPT],
        fee_limit_msat=payment.fee_limit_msat,
        timeout_seconds=timeout_seconds,
        route_hints=payment.route_hints,
        max_parts=1,
        no_inflight_updates=True,
    )


def routes_request(payment: KeysendPayment) -> lightning_pb2.QueryRoutesRequest:
    """Asks whether the very records fit, over how many hops and for what fee."""
    return lightning_pb2.QueryRoutesRequest(
        pub_key=payment.destination.hex(),
        amt=max(1, payment.amount_msat // 1000),
        fee_limit=lightning_pb2.FeeLimit(fixed_msat=payment.fee_limit_msat),
        use_mission_control=True,
        dest_custom_records={**payment.records, PREIMAGE_RECORD: payment.preimage},
        dest_features=[lightning_pb2.TLV_ONION_OPT],
        route_hints=payment.route_hints,
    )
