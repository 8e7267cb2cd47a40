"""Macaroons of a simulated lnd: bakes them, and says why a call is refused, in lnd's words.

The admin macaroon of a simulated node is no more than random bytes, and permits all; they are also the key by which all
others are signed.
"""

import hmac
import os
import string

from lightning.macaroon import NoMacaroon, decode
from lightning.simulator.credentials import same_macaroon
from lightning.simulator.errors import CallError
from protos.lnrpc import lightning_pb2

# As lnd tells them by ListPermissions.
PERMISSIONS = {
    "/lnrpc.Lightning/GetInfo": ("info", "read"),
    "/lnrpc.Lightning/ChannelBalance": ("offchain", "read"),
    "/lnrpc.Lightning/ListChannels": ("offchain", "read"),
    "/lnrpc.Lightning/PendingChannels": ("offchain", "read"),
    "/lnrpc.Lightning/GetChanInfo": ("info", "read"),
    "/lnrpc.Lightning/GetNodeInfo": ("info", "read"),
    "/lnrpc.Lightning/QueryRoutes": ("info", "read"),
    "/lnrpc.Lightning/SignMessage": ("message", "write"),
    "/lnrpc.Lightning/VerifyMessage": ("message", "read"),
    "/lnrpc.Lightning/AddInvoice": ("invoices", "write"),
    "/lnrpc.Lightning/LookupInvoice": ("invoices", "read"),
    "/lnrpc.Lightning/ListInvoices": ("invoices", "read"),
    "/lnrpc.Lightning/SubscribeInvoices": ("invoices", "read"),
    "/lnrpc.Lightning/DecodePayReq": ("offchain", "read"),
    "/lnrpc.Lightning/SendCustomMessage": ("offchain", "write"),
    "/lnrpc.Lightning/SubscribeCustomMessages": ("offchain", "read"),
    "/lnrpc.Lightning/BakeMacaroon": ("macaroon", "generate"),
    "/lnrpc.Lightning/CheckMacaroonPermissions": ("macaroon", "read"),
    "/lnrpc.Lightning/ListPermissions": ("info", "read"),
    "/routerrpc.Router/SendPaymentV2": ("offchain", "write"),
    "/routerrpc.Router/TrackPaymentV2": ("offchain", "read"),
    "/invoicesrpc.Invoices/SubscribeSingleInvoice": ("invoices", "read"),
    "/invoicesrpc.Invoices/AddHoldInvoice": ("invoices", "write"),
    "/invoicesrpc.Invoices/SettleInvoice": ("invoices", "write"),
    "/invoicesrpc.Invoices/CancelInvoice": ("invoices", "write"),
}
ENTITIES = {entity for entity, _ in PERMISSIONS.values()} | {"address", "onchain", "peers", "signer"}
ACTIONS = {"read", "write", "generate"}
URI = "uri"
DENIED = "permission denied"
NO_FORMAT = "cannot determine data format of binary-encoded macaroon"
MISMATCH = "verification failed: signature mismatch after caveat verification"


class Bakery:
    def __init__(self, admin: bytes):
        self._admin_hex = admin.hex()
        # As the macaroon library makes a key of a root key.
        self._key = hmac.digest(b"macaroons-key-generator", admin, "sha256")

    def bake(self, permissions: list[tuple[str, str]]) -> bytes:
        if not permissions:
            raise CallError("permission list cannot be empty. specify at least one action/entity pair")
        for entity, action in permissions:
            known = action in PERMISSIONS if entity == URI else entity in ENTITIES and action in ACTIONS
            if not known:
                what = "action" if entity == URI or entity in ENTITIES else "entity"
                raise CallError(f"invalid permission {what}")
        ops = [lightning_pb2.Op(entity=entity, actions=[action]) for entity, action in permissions]
        identity = lightning_pb2.MacaroonId(nonce=os.urandom(16), storageId=b"0", ops=ops)
        identifier = b"\x03" + identity.SerializeToString()
        signature = hmac.digest(self._key, identifier, "sha256")
        head = b"\x02" + _field(1, b"lnd") + _field(2, identifier) + b"\x00"
        return head + b"\x00" + _field(6, signature)

    def refusal(
        self, given: str | bytes, method: str, permissions: list[tuple[str, str]] | None = None
    ) -> str | None:
        """As Go's hex decoder, the macaroon library or lnd's bakery would say it. None when the call is permitted, by
        its name or by these permissions, which are its own unless others are named.
        """
        if same_macaroon(given, self._admin_hex):
            return None
        text = given if isinstance(given, str) else given.decode("latin-1")
        wrong = next((char for char in text if char not in string.hexdigits), None)
        if wrong is not None:
            return f"encoding/hex: invalid byte: U+{ord(wrong):04X} {wrong!r}"
        if len(text) % 2:
            return "encoding/hex: odd length hex string"
        try:
            macaroon = decode(bytes.fromhex(text))
            held = macaroon.permissions
        except NoMacaroon:
            return MISMATCH if len(text) == len(self._admin_hex) else NO_FORMAT
        signature = hmac.digest(self._key, macaroon.identifier, "sha256")
        if macaroon.caveats or not hmac.compare_digest(signature, macaroon.signature):
            return MISMATCH
        wanted = {PERMISSIONS.get(method, ("none", "none"))} if permissions is None else set(permissions)
        return None if (URI, method) in held or wanted <= held else DENIED


def _field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
