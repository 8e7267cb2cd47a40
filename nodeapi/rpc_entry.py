"""Where gRPC calls enter runimpd: health and reflection at once, a clear Unavailable for all else until the API is there."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc

from nodeapi.errors import ApiError
from nodeapi.rpc_requests import refuse


class RpcEntry(grpc.GenericRpcHandler):
    """The one handler of the server. `waiting_for` says what the node waits for."""

    def __init__(self, open_handlers: Iterable[grpc.GenericRpcHandler], waiting_for: Callable[[], str]):
        self._handlers: Sequence[grpc.GenericRpcHandler] = tuple(open_handlers)
        self._early: grpc.RpcMethodHandler[Any, Any] | None = grpc.stream_unary_rpc_method_handler(
            self._refuse
        )
        self._waiting_for = waiting_for

    def install(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers = (*self._handlers, *handlers)
        self._early = None

    def service(self, handler_call_details: Any) -> "grpc.RpcMethodHandler[Any, Any] | None":
        found = (handler.service(handler_call_details) for handler in self._handlers)
        return next(filter(None, found), self._early)

    async def _refuse(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        await refuse(context, ApiError(grpc.StatusCode.UNAVAILABLE, self._waiting_for()))
