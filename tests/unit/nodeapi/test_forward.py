"""Calls that a daphne hands on to runimpd: with the caller's credentials and address, and with runimpd's answer."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from django.core import signing
from google.protobuf.message import Message
from grpc.aio import AioRpcError, Metadata

from nodeapi import forward
from nodeapi.auth import Visit
from nodeapi.errors import BY_NODE, ApiError
from nodeapi.forward import CLIENT, CLIENT_SECONDS, Forwarder, credentials_of, forwarded_address
from protos import messaging_pb2
from tests.support.doors import ADDRESS, PUBKEY, SEND_MESSAGE, operation, visit

CODE = grpc.StatusCode
REQUEST = messaging_pb2.SendMessageRequest(msg=b"x", pubkey=PUBKEY)
REPLY = messaging_pb2.SendMessageResponse(id="y")


class Channel:
    """To a runimpd that answers so."""

    def __init__(self, answer: Message | AioRpcError = REPLY):
        self._answer = answer
        self.asked: list[SimpleNamespace] = []
        self.closed_after_seconds: list[float | None] = []

    def unary_unary(self, path, *, request_serializer, response_deserializer):
        async def call(request, *, metadata, **options):
            body = request_serializer(request)
            self.asked.append(SimpleNamespace(path=path, body=body, metadata=dict(metadata), **options))
            if isinstance(self._answer, AioRpcError):
                raise self._answer
            return response_deserializer(self._answer.SerializeToString())

        return call

    async def close(self, grace: float | None = None) -> None:
        self.closed_after_seconds.append(grace)


class HeldChannel(Channel):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answering = asyncio.Event()

    def unary_unary(self, *arguments, **options):
        answer = super().unary_unary(*arguments, **options)

        async def call(request, **options):
            reply = await answer(request, **options)
            await self.answering.wait()
            return reply

        return call


@pytest.fixture
def answering(monkeypatch):
    """A forwarder to a runimpd that answers so, and the channel."""

    def make(*answer) -> tuple[Forwarder, Channel]:
        channel = Channel(*answer)
        monkeypatch.setattr(forward.grpc.aio, "insecure_channel", lambda address, options: channel)
        return Forwarder("10.0.0.7:8881"), channel

    return make


def failure(code: grpc.StatusCode, details: str | None = "", *trailing: tuple[str, str]) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailing), details)


async def test_call_is_made_again_at_runimpd(answering):
    forwarder, channel = answering()
    who = visit("app", idempotency_key="k", user_agent="not passed on")
    assert await forwarder.call(operation(SEND_MESSAGE), REQUEST, who) == REPLY
    (asked,) = channel.asked
    assert (asked.path, asked.body) == (f"/{SEND_MESSAGE}", REQUEST.SerializeToString())
    assert asked.metadata.keys() == {"authorization", "idempotency-key", CLIENT}
    assert asked.metadata["authorization"] == who.metadata["authorization"]
    assert forwarded_address(asked.metadata) == ADDRESS
    assert asked.timeout == forward.CALL_SECONDS


@pytest.mark.parametrize(
    ("error", "code", "message", "retry_after"),
    [
        (failure(CODE.NOT_FOUND, "id: none"), CODE.NOT_FOUND, "id: none", None),
        (failure(CODE.PERMISSION_DENIED, None), CODE.PERMISSION_DENIED, "", None),
        (
            failure(CODE.RESOURCE_EXHAUSTED, "used up", ("x", "y"), ("retry-after", "17")),
            CODE.RESOURCE_EXHAUSTED,
            "used up",
            17,
        ),
        (failure(CODE.DEADLINE_EXCEEDED, "too late"), CODE.DEADLINE_EXCEEDED, "too late", None),
        (
            failure(CODE.UNAVAILABLE, "connection refused: 10.0.0.7"),
            CODE.UNAVAILABLE,
            "runimpd at 10.0.0.7:8881 does not answer",
            None,
        ),
        (
            failure(CODE.UNAVAILABLE, "lnd is locked; the node waits for it", BY_NODE),
            CODE.UNAVAILABLE,
            "lnd is locked; the node waits for it",
            None,
        ),
        (
            failure(CODE.UNAVAILABLE, "SSL: CERTIFICATE_VERIFY_FAILED: expired"),
            CODE.UNAVAILABLE,
            "runimpd at 10.0.0.7:8881 has not the certificate of server.tls_cert, or one that has expired",
            None,
        ),
    ],
)
async def test_refusals_of_runimpd_are_passed_back(answering, error, code, message, retry_after):
    forwarder, _ = answering(error)
    with pytest.raises(ApiError) as refused:
        await forwarder.call(operation(SEND_MESSAGE), REQUEST, visit())
    assert (refused.value.code, refused.value.message) == (code, message)
    assert refused.value.retry_after == retry_after


# credentials


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ({}, {}),
        ({"cookie": "c", "host": "h"}, {}),
        ({"authorization": "Bearer k"}, {"authorization": "Bearer k"}),
        ({"x-api-key": "k"}, {"x-api-key": "k"}),
        # As grpc-gateway: of HTTP's header the metadata that it names.
        ({"grpc-metadata-x-api-key": "k"}, {"x-api-key": "k"}),
        ({"idempotency-key": "zwölf"}, {"idempotency-key-bin": b"zw\xf6lf"}),
        ({"idempotency-key": "tab\t"}, {"idempotency-key-bin": b"tab\t"}),
    ],
)
def test_credentials(given, passed_on):
    told = dict(credentials_of(Visit(metadata=given, address=ADDRESS)))
    del told[CLIENT]
    assert told == passed_on


@pytest.mark.parametrize("address", [ADDRESS, "2001:db8::1", ""])
def test_address_of_the_client_is_signed(address):
    told = dict(credentials_of(Visit(metadata={}, address=address)))
    assert forwarded_address(told) == address


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {CLIENT: ""},
        {CLIENT: ADDRESS},
        {CLIENT: f"{ADDRESS}:1vabc:signature"},
        {CLIENT: signing.TimestampSigner(salt="of something else").sign(ADDRESS)},
        {CLIENT: signing.TimestampSigner(key="k" * 50, salt="nodeapi.forward").sign(ADDRESS)},
    ],
)
def test_address_that_no_process_of_this_node_has_signed(metadata):
    assert forwarded_address(metadata) == ""


@pytest.mark.parametrize(("seconds", "address"), [(CLIENT_SECONDS - 1, ADDRESS), (CLIENT_SECONDS + 1, "")])
def test_signed_address_is_good_for_a_while(monkeypatch, seconds, address):
    signed_at = 1_780_000_000
    monkeypatch.setattr(signing.time, "time", lambda: signed_at)
    told = dict(credentials_of(visit()))
    monkeypatch.setattr(signing.time, "time", lambda: signed_at + seconds)
    assert forwarded_address(told) == address


# certificates


class Certificates:
    """As nodeapi.tls.PairFiles."""

    def __init__(self) -> None:
        self.pair = object()

    def current(self):
        return self.pair


async def test_new_certificate_brings_a_new_channel(monkeypatch):
    made: list[tuple] = []

    def make(address, pair, options):
        made.append((address, pair))
        return Channel()

    monkeypatch.setattr(forward, "grpc_channel", make)
    files = Certificates()
    forwarder = Forwarder("10.0.0.7:8881", files)
    first_pair, first = files.pair, forwarder.channel
    assert forwarder.channel is first
    files.pair = object()
    second = forwarder.channel
    assert second is not first
    assert made == [("10.0.0.7:8881", first_pair), ("10.0.0.7:8881", files.pair)]
    await asyncio.sleep(0)
    # Calls over the first go on for as long as a call may take.
    assert first.closed_after_seconds == [forward.CALL_SECONDS]
    await forwarder.close()
    assert second.closed_after_seconds == [None]


async def test_no_call_waits_for_others(monkeypatch):
    """Runimpd takes so many calls on one connection; with more under way there is another one."""
    made: list[HeldChannel] = []

    def make(address, options):
        made.append(HeldChannel())
        return made[-1]

    monkeypatch.setattr(forward.grpc.aio, "insecure_channel", make)
    forwarder = Forwarder("10.0.0.7:8881")
    number = 2 * forward.CALLS_PER_CHANNEL + 1
    calls = [
        asyncio.create_task(forwarder.call(operation(SEND_MESSAGE), REQUEST, visit())) for _ in range(number)
    ]
    await asyncio.sleep(0)
    assert [len(channel.asked) for channel in made] == [forward.CALLS_PER_CHANNEL] * 2 + [1]
    for channel in made:
        channel.answering.set()
    assert await asyncio.gather(*calls) == [REPLY] * number
    # All have room again.
    assert forwarder.channel is made[0]
    await forwarder.close()
    assert [channel.closed_after_seconds for channel in made] == [[None]] * 3


async def test_end_before_the_first_call(answering):
    forwarder, channel = answering()
    await forwarder.close()
    assert channel.closed_after_seconds == []
