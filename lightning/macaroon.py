"""What lnd has written into a macaroon: which calls it permits. Pure; whether it is genuine only lnd knows.

The format is version 2 of macaroons (libmacaroons' doc/format.txt); the identifier of lnd's holds its permissions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from lightning.rpcs import Rpc
from protos.lnrpc import lightning_pb2

VERSION = 2
IDENTIFIER_VERSION = 3
END, LOCATION, IDENTIFIER, VERIFICATION, SIGNATURE = 0, 1, 2, 4, 6
URI = "uri"


class NoMacaroon(ValueError):
    """These bytes are no macaroon of an lnd."""


@dataclass(frozen=True)
class Macaroon:
    identifier: bytes
    caveats: tuple[bytes, ...]
    signature: bytes

    @property
    def permissions(self) -> frozenset[tuple[str, str]]:
        """Pairs of entity and action. Raises NoMacaroon."""
        if self.identifier[:1] != bytes([IDENTIFIER_VERSION]):
            raise NoMacaroon
        try:
            ops = lightning_pb2.MacaroonId.FromString(self.identifier[1:]).ops
        except DecodeError:
            raise NoMacaroon from None
        return frozenset((op.entity, action) for op in ops for action in op.actions)

    def permits(self, rpc: Rpc) -> bool:
        """By its own words: a caveat may narrow it. Raises NoMacaroon."""
        return bool(self.permissions & {rpc.permission, (URI, rpc.path)})


def not_permitted(raw: bytes, calls: Iterable[Rpc]) -> list[Rpc]:
    """Which of these calls a macaroon does not permit by its own words. Raises NoMacaroon."""
    macaroon = decode(raw)
    return [rpc for rpc in calls if not macaroon.permits(rpc)]


def decode(raw: bytes) -> Macaroon:
    """Raises NoMacaroon."""
    if raw[:1] != bytes([VERSION]):
        raise NoMacaroon
    try:
        head, rest = _section(raw[1:])
        caveats = []
        while rest[0] != END:
            caveat, rest = _section(rest)
            caveats.append(caveat[IDENTIFIER])
        kind, signature, rest = _field(rest[1:])
        identifier = head[IDENTIFIER]
    except (IndexError, KeyError):
        raise NoMacaroon from None
    if kind != SIGNATURE or rest:
        raise NoMacaroon
    return Macaroon(identifier, tuple(caveats), signature)


def _section(raw: bytes) -> tuple[dict[int, bytes], bytes]:
    """The fields up to the mark that ends them, by kind, and what comes behind it."""
    fields = {}
    while raw[0] != END:
        kind, value, raw = _field(raw)
        fields[kind] = value
    return fields, raw[1:]


def _field(raw: bytes) -> tuple[int, bytes, bytes]:
    kind, raw = _varint(raw)
    length, raw = _varint(raw)
    if length > len(raw):
        raise IndexError
    return kind, raw[:length], raw[length:]


def _varint(raw: bytes) -> tuple[int, bytes]:
    value = 0
    for index in range(5):
        value |= (raw[index] & 0x7F) << 7 * index
        if raw[index] < 0x80:
            return value, raw[index + 1 :]
    raise IndexError
