"""What a call of the simulated lnd is refused with: lnd's own gRPC codes and texts."""

import grpc

# What fits the API's signed fields; more than there is, so that it only reads as too much.
MAX_MSAT = 2**63 - 1


class CallError(Exception):
    """A refusal that the caller sees. Without a code it is UNKNOWN, as every plain Go error of lnd is."""

    def __init__(self, text: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN):
        super().__init__(text)
        self.text = text
        self.code = code


class StartError(ValueError):
    """The simulator cannot start; the text tells what to do."""


def not_found(text: str) -> CallError:
    return CallError(text, grpc.StatusCode.NOT_FOUND)


def already_exists(text: str) -> CallError:
    return CallError(text, grpc.StatusCode.ALREADY_EXISTS)


def need_hash(raw: bytes) -> bytes:
    if len(raw) != 32:
        raise CallError(f"invalid hash length of {len(raw)}, want 32")
    return raw


def need_preimage(raw: bytes) -> bytes:
    if len(raw) != 32:
        raise CallError(f"invalid preimage length of {len(raw)}, want 32")
    return raw


def need_vertex(raw: bytes) -> bytes:
    if len(raw) != 33:
        raise CallError(f"invalid vertex length of {len(raw)}, want 33")
    return raw


def need_vertex_hex(text: str) -> bytes:
    if len(text) != 66:
        raise CallError(f"invalid vertex string length of {len(text)}, want 66")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CallError("encoding/hex: invalid byte in the public key") from None


def amount_msat(sat: int, msat: int) -> int:
    """One amount in msat of lnd's pair of fields."""
    if sat and msat:
        raise CallError("sat and msat arguments are mutually exclusive")
    if sat < 0 or msat < 0:
        raise CallError("amount cannot be negative")
    return min(sat * 1000 or msat, MAX_MSAT)
