"""A daphne beside runimpd hands every call that is not pure reading to runimpd's gRPC, so that there is one engine."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from django.core.signing import BadSignature, TimestampSigner
from google.protobuf.message import Message

from nodeapi.auth import Visit
from nodeapi.certificates import Pair
from nodeapi.errors import ApiError, is_by_node
from nodeapi.operations import Operation
from nodeapi.tls import PairFiles, grpc_channel

CALL_SECONDS = 90
CREDENTIALS = ("authorization", "x-api-key", "grpc-metadata-x-api-key", "idempotency-key")
# Text of gRPC's metadata is printable ASCII; what HTTP permits besides goes as bytes, under a name with this end.
AS_BYTES = "-bin"
# The client's address, signed with the secret that the processes of a node share.
CLIENT = "impd-client"
CLIENT_SECONDS = 120
_signer = TimestampSigner(salt="nodeapi.forward")
# Soon after runimpd is back, its daphnes know. It is never reached by a proxy that the environment names.
OPTIONS = (
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    # Each channel has a connection of its own.
    ("grpc.use_local_subchannel_pool", 1),
)
# Of the 64 calls that runimpd takes on one connection; with more under way there is another one.
CALLS_PER_CHANNEL = 60


@dataclass(eq=False)
class _CountedChannel:
    """A channel, and how many calls are under way over it."""

    channel: grpc.aio.Channel
    calls: int = 0


class Forwarder:
    """`tls` are the files that runimpd has its certificate from: that one alone is trusted, whatever host it names."""

    def __init__(self, address: str, tls: PairFiles | None = None):
        self._address = address
        self._tls = tls
        self._pair: Pair | None = None
        self._channels: list[_CountedChannel] = []
        self._closing: set[asyncio.Task] = set()

    async def call(self, operation: Operation, request: Message, visit: Visit) -> Message:
        """The same call, with the caller's credentials, at runimpd. No answer: UNAVAILABLE."""
        counted = self._free_channel()
        method = counted.channel.unary_unary(
            operation.rpc_path,
            request_serializer=operation.request_class.SerializeToString,
            response_deserializer=operation.reply_class.FromString,
        )
        counted.calls += 1
        try:
            return await method(request, metadata=credentials_of(visit), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if is_unanswered(error):
                raise ApiError(error.code(), f"runimpd at {self._address} {_trouble(error)}") from None
            raise ApiError(
                error.code(), error.details() or "", retry_after_seconds=_retry_after(error)
            ) from None
        finally:
            counted.calls -= 1

    @property
    def channel(self) -> grpc.aio.Channel:
        """One on which a call does not wait for others."""
        return self._free_channel().channel

    def _free_channel(self) -> _CountedChannel:
        """With a new certificate there are new channels; calls over the old ones go on."""
        pair = self._tls.current() if self._tls else None
        if pair is not self._pair:
            self._pair = pair
            while self._channels:
                self._close_later(self._channels.pop().channel)
        free = next((one for one in self._channels if one.calls < CALLS_PER_CHANNEL), None)
        if free is None:
            free = _CountedChannel(self._new_channel())
            self._channels.append(free)
        return free

    def _new_channel(self) -> grpc.aio.Channel:
        if self._pair:
            return grpc_channel(self._address, self._pair, OPTIONS)
        return grpc.aio.insecure_channel(self._address, options=OPTIONS)

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close(CALL_SECONDS))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for counted in self._channels:
            await counted.channel.close()


def is_unanswered(error: grpc.aio.AioRpcError) -> bool:
    """Whether it was not runimpd that is unavailable by its own words, but the way to it."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not is_by_node(error.trailing_metadata())


def _trouble(error: grpc.aio.AioRpcError) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in (error.details() or ""):
        return "has not the certificate of server.tls_cert, or one that has expired"
    return "does not answer"


def credentials_of(visit: Visit) -> tuple[tuple[str, str | bytes], ...]:
    metadata = visit.metadata
    given = [
        (name.removeprefix("grpc-metadata-"), metadata[name]) for name in CREDENTIALS if name in metadata
    ]
    return (*(_as_metadata(name, value) for name, value in given), (CLIENT, _signer.sign(visit.address)))


def _as_metadata(name: str, value: str) -> tuple[str, str | bytes]:
    plain = value.isascii() and value.isprintable()
    return (name, value) if plain else (name + AS_BYTES, value.encode("latin-1"))


def _retry_after(error: grpc.aio.AioRpcError) -> int | None:
    return next(
        (int(value) for name, value in error.trailing_metadata() or () if name == "retry-after"), None
    )


def forwarded_address(metadata: Mapping[str, str]) -> str:
    """The client's address, if another process of this node has passed on the call; else nothing."""
    try:
        return _signer.unsign(metadata[CLIENT], max_age=CLIENT_SECONDS) if CLIENT in metadata else ""
    except BadSignature:
        return ""
