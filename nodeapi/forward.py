"""A daphne beside runimpd hands every call that is not pure reading to runimpd's gRPC, so that there is one engine."""

from collections.abc import Mapping

import grpc
from django.core.signing import BadSignature, TimestampSigner
from google.protobuf.message import Message

from nodeapi.auth import Visit
from nodeapi.errors import ApiError
from nodeapi.operations import Operation

CALL_SECONDS = 90
CREDENTIALS = ("authorization", "x-api-key", "grpc-metadata-x-api-key", "idempotency-key")
# The client's address, signed with the secret that the processes of a node share.
CLIENT = "impd-client"
CLIENT_SECONDS = 120
_signer = TimestampSigner(salt="nodeapi.forward")


class Forwarder:
    def __init__(self, address: str):
        self._address = address
        self._channel = grpc.aio.insecure_channel(address)

    async def call(self, operation: Operation, request: Message, visit: Visit) -> Message:
        """The same call, with the caller's credentials, at runimpd. No answer: UNAVAILABLE."""
        method = self._channel.unary_unary(
            operation.rpc_path,
            request_serializer=operation.request_class.SerializeToString,
            response_deserializer=operation.reply_class.FromString,
        )
        try:
            return await method(request, metadata=_credentials(visit), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise ApiError(error.code(), f"runimpd at {self._address} does not answer") from None
            raise ApiError(error.code(), error.details() or "", retry_after_seconds=_retry_after(error)) from None

    async def close(self) -> None:
        await self._channel.close()


def _credentials(visit: Visit) -> tuple[tuple[str, str], ...]:
    metadata = visit.metadata
    given = [(name.removeprefix("grpc-metadata-"), metadata[name]) for name in CREDENTIALS if name in metadata]
    return (*given, (CLIENT, _signer.sign(visit.address)))


def _retry_after(error: grpc.aio.AioRpcError) -> int | None:
    return next((int(value) for name, value in error.trailing_metadata() or () if name == "retry-after"), None)


def forwarded_address(metadata: Mapping[str, str]) -> str:
    """The client's address, if another process of this node has passed on the call; else nothing."""
    try:
        return _signer.unsign(metadata[CLIENT], max_age=CLIENT_SECONDS) if CLIENT in metadata else ""
    except BadSignature:
        return ""
