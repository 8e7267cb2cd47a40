"""What stands before every call of a simulated lnd: its state, then the macaroon."""

import string

import grpc

from lightning.simulator.credentials import same_macaroon
from lightning.simulator.network import LOCKED, STARTING, Node

STATE_TEXTS = {
    LOCKED: "wallet locked, unlock it to enable full RPC access",
    STARTING: "the RPC server is in the process of starting up, but not yet ready to accept calls",
}


class Gate(grpc.aio.ServerInterceptor):
    def __init__(self, node: Node, macaroon_hex: str):
        self._node = node
        self._macaroon_hex = macaroon_hex

    async def intercept_service(self, continuation, details):
        handler = await continuation(details)
        text = self._refusal(details)
        return handler if handler is None or text is None else _refuse(handler, text)

    def _refusal(self, details) -> str | None:
        if self._node.state in STATE_TEXTS:
            return STATE_TEXTS[self._node.state]
        given = [value for key, value in details.invocation_metadata if key == "macaroon"]
        if len(given) != 1:
            return f"expected 1 macaroon, got {len(given)}"
        return None if same_macaroon(given[0], self._macaroon_hex) else _why_refused(given[0], len(self._macaroon_hex))


def _why_refused(given: str | bytes, length: int) -> str:
    """As Go's hex decoder, the macaroon library or lnd's bakery would say it."""
    text = given if isinstance(given, str) else given.decode("latin-1")
    wrong = next((char for char in text if char not in string.hexdigits), None)
    if wrong is not None:
        return f"encoding/hex: invalid byte: U+{ord(wrong):04X} {wrong!r}"
    if len(text) % 2:
        return "encoding/hex: odd length hex string"
    if len(text) != length:
        return "cannot determine data format of binary-encoded macaroon"
    return "verification failed: signature mismatch after caveat verification"


def _refuse(handler, text: str):
    """A handler of the same kind that only refuses."""

    async def refuse(request, context):
        await context.abort(grpc.StatusCode.UNKNOWN, text)

    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return make(refuse, handler.request_deserializer, handler.response_serializer)
