"""How much room the onion has. Pure. Sizes in bytes, amounts in msat.

All hops of a route share 1,300 bytes of payload; each hop takes its TLV records, their length and 32 bytes of HMAC.
With one record at 1 sat that leaves 1207 bytes over one hop and 1156 over two (measured on lnd at a low block height;
a byte less a hop from block 65536 on).
"""

from collections.abc import Mapping

MAX_BYTES = 1300
HMAC_BYTES = 32
BLOCK_HEIGHT = 600
# lnd's default final delta of 80 blocks and its padding of 3.
FINAL_CLTV = BLOCK_HEIGHT + 83
SHORT_CHANNEL_ID_RECORD = 10
PAYMENT_ADDR_BYTES = 32


def varint_size(value: int) -> int:
    """Bytes of BOLT's BigSize."""
    if value < 0xFD:
        return 1
    if value <= 0xFFFF:
        return 3
    return 5 if value <= 0xFFFFFFFF else 9


def truncated_size(value: int) -> int:
    """Bytes of an integer without leading zeros."""
    return (value.bit_length() + 7) // 8


def record_size(number: int, length: int) -> int:
    return varint_size(number) + varint_size(length) + length


def forwarding_size(amount: int, expiry: int = FINAL_CLTV) -> int:
    """Payload of a hop that passes `amount` on."""
    tlv = 2 + truncated_size(amount) + 2 + truncated_size(expiry) + SHORT_CHANNEL_ID_RECORD
    return _framed(tlv)


def final_size(records: Mapping[int, bytes], amount: int, *, payment_addr: bool = False) -> int:
    """Payload of the last hop."""
    tlv = 2 + truncated_size(amount) + 2 + truncated_size(FINAL_CLTV)
    if payment_addr:
        tlv += record_size(8, PAYMENT_ADDR_BYTES + truncated_size(amount))
    tlv += sum(record_size(number, len(value)) for number, value in records.items())
    return _framed(tlv)


def record_room(hops: int, records: Mapping[int, bytes], amount: int) -> int:
    """Bytes left (below 0: too many) after `records` have gone over `hops` hops at `amount`."""
    return MAX_BYTES - final_size(records, amount) - (hops - 1) * forwarding_size(amount)


def _framed(tlv: int) -> int:
    return tlv + varint_size(tlv) + HMAC_BYTES
