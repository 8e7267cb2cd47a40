"""gRPC between a client and servicers of the same process and event loop: no port, no TLS, no threads.

    server = MemoryServer()
    lightning_pb2_grpc.add_LightningServicer_to_server(servicer, server)
    stub = lightning_pb2_grpc.LightningStub(MemoryChannel(server))

Messages are serialized as on a real channel, so that neither side sees what the other changes afterwards.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc

Metadata = Sequence[tuple[str, str]]


class Aborted(Exception):
    """What a servicer's `context.abort` raises."""

    def __init__(self, code: grpc.StatusCode, details: str):
        super().__init__(details)
        self.code = code
        self.details = details


class MemoryServer:
    """Takes servicers as a grpc.aio.Server does, behind the interceptors of one."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()):
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """The same methods come by `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def refusal(self, path: str, request: Any) -> None:
        """Before a call is handled; raises Aborted to refuse it."""

    async def answered(self, path: str, request: Any) -> None:
        """After a call was handled, before its caller hears of it; raises Aborted to lose the answer."""

    async def unary(self, path: str, raw: bytes, metadata: Metadata) -> bytes:
        handler = await self._handler(path, metadata)
        request = handler.request_deserializer(raw)
        await self.refusal(path, request)
        response = await handler.unary_unary(request, Context())
        await self.answered(path, request)
        return handler.response_serializer(response)

    async def stream(self, path: str, raw: bytes, metadata: Metadata) -> AsyncIterator[bytes]:
        handler = await self._handler(path, metadata)
        request = handler.request_deserializer(raw)
        await self.refusal(path, request)
        # A handler that refuses is a plain coroutine function.
        responses = handler.unary_stream(request, Context())
        if asyncio.iscoroutine(responses):
            await responses
            return
        async for response in responses:
            await self.answered(path, request)
            yield handler.response_serializer(response)

    async def _handler(self, path: str, metadata: Metadata) -> Any:
        if path not in self._handlers:
            raise Aborted(grpc.StatusCode.UNIMPLEMENTED, f"unknown service or method {path}")

        async def found(details: Any) -> Any:
            return self._handlers[path]

        details: Any = SimpleNamespace(method=path, invocation_metadata=tuple(metadata))
        handle = found
        for interceptor in reversed(self._interceptors):
            handle = _behind(interceptor, handle)
        return await handle(details)


class Context:
    """What servicers use of grpc.aio.ServicerContext."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise Aborted(code, details)


class MemoryChannel:
    """What generated stubs use of a grpc.aio.Channel. `metadata` goes with every call."""

    def __init__(self, server: MemoryServer, metadata: Metadata = ()):
        self._server = server
        self._metadata = tuple(metadata)
        self._calls: set[asyncio.Task] = set()

    async def close(self) -> None:
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def unary_unary(self, path: str, request_serializer, response_deserializer, **_) -> Callable:
        def call(request, *, metadata: Metadata = (), timeout: float | None = None) -> asyncio.Task:
            async def run():
                with _Errors():
                    raw = request_serializer(request)
                    return response_deserializer(
                        await self._server.unary(path, raw, (*self._metadata, *metadata))
                    )

            return self._started(asyncio.ensure_future(run()))

        return call

    def unary_stream(self, path: str, request_serializer, response_deserializer, **_) -> Callable:
        def call(request, *, metadata: Metadata = (), timeout: float | None = None) -> "MemoryStream":
            raw = request_serializer(request)
            responses = self._server.stream(path, raw, (*self._metadata, *metadata))
            stream = MemoryStream(responses, response_deserializer)
            self._started(stream.task)
            return stream

        return call

    def _started(self, task: asyncio.Task) -> asyncio.Task:
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task


class MemoryStream:
    """What callers use of a grpc.aio.UnaryStreamCall. It begins at once, as a real one does."""

    def __init__(self, responses: AsyncIterator[bytes], deserialize: Callable[[bytes], Any]):
        self._deserialize = deserialize
        self._told: asyncio.Queue = asyncio.Queue()
        self.task = asyncio.ensure_future(self._pump(responses))

    def cancel(self) -> None:
        self.task.cancel()

    async def read(self) -> Any:
        """The next response; grpc.aio.EOF after the last one."""
        told = await self._told.get()
        if isinstance(told, grpc.aio.AioRpcError) or told is grpc.aio.EOF:
            # It stays the end, however often it is read.
            self._told.put_nowait(told)
        if isinstance(told, grpc.aio.AioRpcError):
            raise told
        return told

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response

    async def _pump(self, responses: AsyncIterator[bytes]) -> None:
        try:
            with _Errors():
                async for raw in responses:
                    self._told.put_nowait(self._deserialize(raw))
            self._told.put_nowait(grpc.aio.EOF)
        except grpc.aio.AioRpcError as error:
            self._told.put_nowait(error)
        except asyncio.CancelledError:
            self._told.put_nowait(_error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
            raise


class _Errors:
    """What the servicer raised, as the caller of a real channel sees it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, Aborted):
            raise _error(error.code, error.details) from None
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AioRpcError):
            raise _error(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}") from error


def _error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def _behind(interceptor: grpc.aio.ServerInterceptor, handle: Callable) -> Callable:
    async def intercepted(details: Any) -> Any:
        return await interceptor.intercept_service(handle, details)

    return intercepted
