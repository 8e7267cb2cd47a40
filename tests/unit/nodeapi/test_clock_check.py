"""The clock against the newest block."""

from datetime import UTC, datetime, timedelta

import pytest

from nodeapi.clock_check import ClockError, clock_error
from protos.lnrpc import lightning_pb2

NOW = datetime(2026, 11, 30, 18, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def info(age: timedelta, *, network: str = "mainnet", synced: bool = True) -> lightning_pb2.GetInfoResponse:
    """Of an lnd whose newest block is so old."""
    return lightning_pb2.GetInfoResponse(
        best_header_timestamp=int((NOW - age).timestamp()),
        chains=[lightning_pb2.Chain(network=network)],
        synced_to_chain=synced,
    )


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (info(10 * MINUTE), None),
        # Miners' clocks may be ahead by so much.
        (info(-120 * MINUTE), None),
        (info(-121 * MINUTE), ClockError.BEHIND),
        (info(-121 * MINUTE, network="simnet", synced=False), ClockError.BEHIND),
        (info(360 * MINUTE), None),
        (info(361 * MINUTE), ClockError.AHEAD),
        # Blocks may come seldom there, or lnd has not seen the newest yet.
        (info(361 * MINUTE, network="simnet"), None),
        (info(361 * MINUTE, synced=False), None),
        (lightning_pb2.GetInfoResponse(), None),
        (lightning_pb2.GetInfoResponse(best_header_timestamp=2**62), None),
    ],
)
def test_clock_error(told, error):
    assert clock_error(told, NOW) is error
