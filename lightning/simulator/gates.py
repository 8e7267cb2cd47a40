"""What stands before every call of a simulated lnd: its state, then the macaroon."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from lightning.simulator.bakery import Bakery
from lightning.simulator.network import LOCKED, STARTING, Node

STATE_TEXTS = {
    LOCKED: "wallet locked, unlock it to enable full RPC access",
    STARTING: "the RPC server is in the process of starting up, but not yet ready to accept calls",
}

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Gate(grpc.aio.ServerInterceptor):
    def __init__(self, node: Node, bakery: Bakery):
        self._node = node
        self._bakery = bakery

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        handler = await continuation(details)
        text = self._refusal(details)
        return handler if handler is None or text is None else _refuse(handler, text)

    def _refusal(self, details: grpc.HandlerCallDetails) -> str | None:
        if self._node.state in STATE_TEXTS:
            return STATE_TEXTS[self._node.state]
        given = [value for key, value in details.invocation_metadata if key == "macaroon"]
        if len(given) != 1:
            return f"expected 1 macaroon, got {len(given)}"
        return self._bakery.refusal(given[0], details.method)


def _refuse(handler: Handler, text: str) -> Handler:
    """A handler of the same kind that only refuses."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, text)

    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(refuse, handler.request_deserializer, handler.response_serializer)
