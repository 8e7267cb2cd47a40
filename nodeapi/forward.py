"""A daphne beside runimpd hands every call that is not pure reading to runimpd's gRPC, so that there is one engine."""

from collections.abc import Mapping

import grpc
from google.protobuf.message import Message

from nodeapi.errors import ApiError
from nodeapi.operations import Operation

CALL_SECONDS = 90
CREDENTIALS = ("authorization", "x-api-key", "grpc-metadata-x-api-key", "idempotency-key")
# Soon after runimpd is back, its daphnes know.
_OPTIONS = (("grpc.max_reconnect_backoff_ms", 2_000),)


class Forwarder:
    def __init__(self, address: str):
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)

    async def call(self, operation: Operation, request: Message, metadata: Mapping[str, str]) -> Message:
        """The same call, with the caller's credentials, at runimpd. No answer: UNAVAILABLE."""
        method = self._channel.unary_unary(
            operation.rpc_path,
            request_serializer=operation.request_class.SerializeToString,
            response_deserializer=operation.reply_class.FromString,
        )
        try:
            return await method(request, metadata=_credentials(metadata), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ApiError(error.code(), f"runimpd at {self._address} does not answer") from None
            raise ApiError(error.code(), error.details() or "") from None

    @property
    def channel(self) -> grpc.aio.Channel:
        return self._channel

    async def close(self) -> None:
        await self._channel.close()


def _credentials(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.removeprefix("grpc-metadata-"), metadata[name]) for name in CREDENTIALS if name in metadata
    )
