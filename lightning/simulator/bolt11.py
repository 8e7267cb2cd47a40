"""BOLT11 payment requests of the simulated network (prefix lnsb, lnd's simnet). Pure. Amounts in msat.

A request is bech32 text: amount in the prefix, then timestamp, tagged fields and a recoverable signature in groups of
five bits.
"""

import hashlib
from dataclasses import dataclass

from coincurve import PrivateKey, PublicKey

from lightning.bech32 import CHARSET, VALUES, expand, polymod
from lightning.signature import verify_digest
from lightning.simulator.errors import MAX_MSAT, CallError

PREFIX = "lnsb"
DEFAULT_EXPIRY_SECONDS = 3600
DEFAULT_CLTV = 18
_MSAT_PER_BITCOIN = 100_000_000_000
# The multiplier's msat of one unit, times 10 because a pico-bitcoin is a tenth of an msat.
_TENTHS = {"m": 10**9, "u": 10**6, "n": 10**3, "p": 1}
_SIGNATURE_GROUPS = 104
# TLV onion and payment address required, multi-part optional.
_FEATURES = 1 << 8 | 1 << 14 | 1 << 17
# Of BOLT 9's features those that an invoice may require: variable onion, payment secret, multi-part, blinded routes,
# AMP, payment metadata; and lnd's blinded paths.
_KNOWN_FEATURES = sum(1 << bit for bit in (8, 14, 16, 24, 30, 48, 262))
_EVEN_BITS = sum(1 << bit for bit in range(0, 5 * 1023, 2))
_REQUIRED = {"p": "payment hash", "s": "payment address"}
# In groups of five bits.
_LENGTHS = {"p": 52, "h": 52, "s": 52, "n": 53}


@dataclass(frozen=True)
class HopHint:
    pubkey: bytes
    channel: int
    base_msat: int
    rate_ppm: int
    cltv_delta: int


@dataclass(frozen=True, kw_only=True)
class PaymentRequest:
    """`amount` 0: the payer chooses. Times in seconds."""

    payment_hash: bytes
    amount: int
    timestamp: int
    expiry: int = DEFAULT_EXPIRY_SECONDS
    description: str = ""
    cltv_expiry: int = DEFAULT_CLTV
    payment_addr: bytes = b""
    hints: tuple[HopHint, ...] = ()
    destination: bytes = b""


def encode(request: PaymentRequest, key: PrivateKey) -> str:
    human = PREFIX + _encode_amount(request.amount)
    data = _integer(request.timestamp, 7)
    data += _field("p", _groups(request.payment_hash))
    data += _field("s", _groups(request.payment_addr))
    data += _field("d", _groups(request.description.encode()))
    data += _field("x", _integer(request.expiry))
    data += _field("c", _integer(request.cltv_expiry))
    for hint in request.hints:
        data += _field("r", _groups(_pack_hint(hint)))
    data += _field("9", _integer(_FEATURES))
    data += _groups(key.sign_recoverable(_digest(human, data), hasher=None))
    return human + "1" + "".join(CHARSET[value] for value in data + _checksum(human, data))


def decode(text: str, *, prefix: str = PREFIX) -> PaymentRequest:
    """Raises CallError for what is no request of the network with this prefix, or one that BOLT 11 forbids to pay."""
    human, data = _split(text, prefix)
    if len(data) < _SIGNATURE_GROUPS + 7:
        raise CallError("short invoice")
    body, signature = data[:-_SIGNATURE_GROUPS], _bytes(data[-_SIGNATURE_GROUPS:])
    tags = _of_right_length(_tags(body[7:]))
    _check_fields(tags)
    return PaymentRequest(
        payment_hash=_bytes(tags["p"][0]),
        amount=_decode_amount(human[len(prefix) :]),
        timestamp=_number(body[:7]),
        expiry=_time(tags["x"][0]) if "x" in tags else DEFAULT_EXPIRY_SECONDS,
        description=_bytes(tags["d"][0]).decode("utf-8", "replace") if "d" in tags else "",
        cltv_expiry=_time(tags["c"][0]) if "c" in tags else DEFAULT_CLTV,
        payment_addr=_bytes(tags["s"][0]),
        hints=tuple(_unpack_hint(_bytes(groups)) for groups in tags.get("r", []) if len(groups) == 82),
        destination=_payee(tags, signature, human.encode() + _whole_bytes(body)),
    )


def _of_right_length(tags: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
    """Without those whose length is fixed and is another: one of BOLT 11's examples has such, "which must be ignored"."""
    right = {
        tag: [groups for groups in fields if len(groups) == _LENGTHS.get(tag, len(groups))]
        for tag, fields in tags.items()
    }
    return {tag: fields for tag, fields in right.items() if fields}


def _check_fields(tags: dict[str, list[list[int]]]) -> None:
    for tag, name in _REQUIRED.items():
        if tag not in tags:
            raise CallError(f"no {name} found")
    if ("d" in tags) == ("h" in tags):
        raise CallError("neither or both of description and description hash are set")
    for tag in "xc9":
        if any(len(groups) > 1 and groups[0] == 0 for groups in tags.get(tag, [])):
            raise CallError(f"the field {tag!r} begins with zeros")
    for groups in tags.get("9", []):
        unknown = _number(groups) & _EVEN_BITS & ~_KNOWN_FEATURES
        if unknown:
            raise CallError(f"the invoice requires the unknown feature {unknown.bit_length() - 1}")


def _payee(tags: dict[str, list[list[int]]], signature: bytes, signed: bytes) -> bytes:
    """The key that an `n` field names, which must have signed; without one the key that has."""
    if "n" not in tags:
        return _recover(signature, hashlib.sha256(signed).digest())
    pubkey = _bytes(tags["n"][0])
    # libsecp256k1 takes no signature whose s is high.
    if not verify_digest(digest=hashlib.sha256(signed).digest(), compact=signature[:64], pubkey=pubkey):
        raise CallError("invalid invoice signature")
    return pubkey


def _split(text: str, prefix: str) -> tuple[str, list[int]]:
    if text != text.lower() and text != text.upper():
        raise CallError("string not all lowercase or all uppercase")
    text = text.lower()
    human, separator, coded = text.rpartition("1")
    if not separator or len(coded) < 6 or any(char not in VALUES for char in coded):
        raise CallError("invalid index of 1 or invalid character in the payment request")
    if not human.startswith("ln"):
        raise CallError('prefix should be "ln"')
    if not human.startswith(prefix) or human[len(prefix) :][:1].isalpha():
        network = "simnet" if prefix == PREFIX else prefix
        raise CallError(f"invoice not for current active network {network!r}")
    data = [VALUES[char] for char in coded]
    if polymod(expand(human) + data) != 1:
        raise CallError("invalid checksum in the payment request")
    return human, data[:-6]


def _tags(groups: list[int]) -> dict[str, list[list[int]]]:
    tags: dict[str, list[list[int]]] = {}
    while len(groups) >= 3:
        length = groups[1] * 32 + groups[2]
        if len(groups) < 3 + length:
            raise CallError("invalid field length")
        tags.setdefault(CHARSET[groups[0]], []).append(groups[3 : 3 + length])
        groups = groups[3 + length :]
    return tags


def _recover(signature: bytes, digest: bytes) -> bytes:
    try:
        return PublicKey.from_signature_and_message(signature, digest, hasher=None).format()
    except Exception as error:  # coincurve raises a bare Exception for what is no signature
        if not isinstance(error, ValueError) and type(error) is not Exception:
            raise
        raise CallError("invalid invoice signature") from None


def _encode_amount(amount: int) -> str:
    if not amount:
        return ""
    tenths = amount * 10
    unit, size = next((unit, size) for unit, size in _TENTHS.items() if tenths % size == 0)
    return f"{tenths // size}{unit}"


def _decode_amount(text: str) -> int:
    if not text:
        return 0
    digits, unit = (text[:-1], text[-1]) if text[-1] in _TENTHS else (text, "")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise CallError("invalid amount in the payment request")
    if digits.startswith("0"):
        raise CallError("the payment request's amount begins with zeros")
    tenths = int(digits) * (_TENTHS[unit] if unit else _MSAT_PER_BITCOIN * 10)
    if tenths > MAX_MSAT * 10:
        raise CallError("the payment request's amount is too large")
    if tenths % 10:
        raise CallError("a pico-bitcoin amount must be a multiple of 10")
    return tenths // 10


def _pack_hint(hint: HopHint) -> bytes:
    return (
        hint.pubkey
        + hint.channel.to_bytes(8, "big")
        + hint.base_msat.to_bytes(4, "big")
        + hint.rate_ppm.to_bytes(4, "big")
        + hint.cltv_delta.to_bytes(2, "big")
    )


def _unpack_hint(raw: bytes) -> HopHint:
    channel, base, rate, delta = (
        int.from_bytes(raw[a:b], "big") for a, b in ((33, 41), (41, 45), (45, 49), (49, 51))
    )
    return HopHint(raw[:33], channel, base, rate, delta)


def _field(tag: str, groups: list[int]) -> list[int]:
    return [VALUES[tag], len(groups) // 32, len(groups) % 32, *groups]


def _integer(value: int, length: int | None = None) -> list[int]:
    groups: list[int] = []
    while value or not groups:
        groups.append(value & 31)
        value >>= 5
    groups += [0] * ((length or 0) - len(groups))
    return groups[::-1]


def _number(groups: list[int]) -> int:
    value = 0
    for group in groups:
        value = value << 5 | group
    return value


def _time(groups: list[int]) -> int:
    value = _number(groups)
    if value >= 1 << 60:
        raise CallError("invalid expiry in the payment request")
    return value


def _groups(raw: bytes) -> list[int]:
    """Groups of five bits, zeros appended."""
    length = (len(raw) * 8 + 4) // 5
    value = int.from_bytes(raw, "big") << (length * 5 - len(raw) * 8)
    return [value >> shift & 31 for shift in range((length - 1) * 5, -1, -5)]


def _bytes(groups: list[int]) -> bytes:
    """Whole bytes; what is left over is padding."""
    length = len(groups) * 5 // 8
    return (_number(groups) >> (len(groups) * 5 - length * 8)).to_bytes(length, "big")


def _digest(human: str, data: list[int]) -> bytes:
    return hashlib.sha256(human.encode() + _whole_bytes(data)).digest()


def _whole_bytes(data: list[int]) -> bytes:
    """Padded with zeros to whole bytes."""
    padded = data + [0] * (-len(data) % 8)
    return _bytes(padded)[: (len(data) * 5 + 7) // 8]


def _checksum(human: str, data: list[int]) -> list[int]:
    value = polymod(expand(human) + data + [0] * 6) ^ 1
    return [value >> 5 * (5 - index) & 31 for index in range(6)]
