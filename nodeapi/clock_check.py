"""This machine's clock against the newest block that lnd knows, whose time is by the miners' clocks."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

from protos.lnrpc import lightning_pb2

# Bitcoin's rule: a block may be of up to two hours ahead of its receivers' clocks.
BLOCK_AHEAD = timedelta(hours=2)
# On these networks a block comes every ten minutes; no block for so long has hardly ever been.
BUSY_NETWORKS = ("mainnet", "testnet", "testnet4", "signet")
BLOCK_OLD = timedelta(hours=6)


class ClockError(StrEnum):
    """`AHEAD` is a guess: there may really have been no block."""

    BEHIND = "behind"
    AHEAD = "ahead"


def block_at(info: lightning_pb2.GetInfoResponse) -> datetime | None:
    """When the newest block is from; None if lnd has not told."""
    seconds = info.best_header_timestamp
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < 2**33 else None


def clock_error(info: lightning_pb2.GetInfoResponse, now: datetime) -> ClockError | None:
    """What an answer that lnd gave now says of the clock that this is the time of."""
    block = block_at(info)
    if block is None:
        return None
    if block - now > BLOCK_AHEAD:
        return ClockError.BEHIND
    network = info.chains[0].network if info.chains else ""
    is_old = network in BUSY_NETWORKS and info.synced_to_chain and now - block > BLOCK_OLD
    return ClockError.AHEAD if is_old else None
