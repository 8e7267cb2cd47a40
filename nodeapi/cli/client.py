"""How the commands reach a node that runs: its gRPC door, at the address in the configuration, with a key if it asks
for one, over TLS if it has a certificate.
"""

import http.client
import json
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from cryptography import x509
from google.protobuf.message import Message

from nodeapi.certificates import names_of
from nodeapi.errors import is_by_node
from protos import (
    federate_pb2,
    federate_pb2_grpc,
    messaging_pb2,
    messaging_pb2_grpc,
    node_pb2,
    node_pb2_grpc,
    vpn_pb2,
    vpn_pb2_grpc,
    websocket_pb2,
    websocket_pb2_grpc,
)

CALL_SECONDS = 60
WHY_SECONDS = 3
KEY_VARIABLE = "IMPD_API_KEY"
MAX_PAGE = 1000

_KEY = re.compile(r"[A-Za-z0-9._~-]{20,}")
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # A node whose machine has vanished is noticed within a minute, however quiet it was before.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
# What gRPC itself says when nobody, or somebody else, is at the other end.
_AWAY = (
    "failed to connect",
    "socket closed",
    "connection reset",
    "goaway",
    "recvmsg",
    "broken pipe",
    "keepalive",
    "endpoint closing",
    "end of tcp stream",
    "transport closed",
    "connection refused",
)


class NodeError(Exception):
    """Why the node did not do it, in one line for a person. `away`: nobody answered, so it may be worth another try. `waits`:
    the node itself says that it is not available, such as at its start.
    """

    def __init__(
        self, text: str, *, away: bool = False, code: grpc.StatusCode | None = None, waits: bool = False
    ):
        super().__init__(text)
        self.away = away
        self.waits = waits
        self.code = code


@dataclass(frozen=True)
class ApiKey:
    """A key and where it is from, for messages."""

    secret: str = field(repr=False)
    origin: str


@dataclass(frozen=True)
class Door:
    """Where a node's doors are. `tls_cert` is the PEM of its certificate, None without TLS."""

    grpc_address: str
    http_address: tuple[str, int]
    tls_cert: bytes | None = None
    key: ApiKey | None = None

    @classmethod
    def of(cls, config, key: ApiKey | None = None) -> "Door":
        """Of a configuration. NodeError when it has no servers."""
        server = config.server
        if not server.enabled:
            raise NodeError("server.enabled is false in the configuration: this node has no doors to ask at")
        host, port = _reached(server.grpc_addr), server.grpc_addr.port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        http_address = (_reached(server.http_addr), server.http_addr.port)
        return cls(address, http_address, _certificate(server), key)


def _reached(address) -> str:
    """Where a server that listens here is reached from this machine."""
    if not address.is_any:
        return address.host
    return "::1" if ":" in address.host else "127.0.0.1"


def _certificate(server) -> bytes | None:
    if server.tls_cert is None:
        return None
    try:
        return server.tls_cert.read_bytes()
    except OSError as error:
        raise NodeError(f"server.tls_cert: {server.tls_cert} cannot be read: {error.strerror}") from None


def find_key(config, *, scopes: frozenset[str], key_file: str | None) -> ApiKey | None:
    """The key to call with: of --key-file, of the environment, or the configuration's first with these scopes."""
    if key_file:
        return _key_in(Path(key_file), "--key-file")
    if secret := os.environ.get(KEY_VARIABLE, "").strip():
        return _checked(secret, KEY_VARIABLE)
    if name := os.environ.get(f"{KEY_VARIABLE}_FILE", "").strip():
        return _key_in(Path(name), f"{KEY_VARIABLE}_FILE")
    keys = config.server.api_keys
    fitting = [key for key in keys if scopes <= key.scopes]
    if not keys:
        return None
    if not fitting:
        raise NodeError(
            f"no key in server.api_keys has the scopes {', '.join(sorted(scopes))}: name one by --key-file"
        )
    return ApiKey(fitting[0].key.get_secret_value(), f"{fitting[0].name} in server.api_keys")


def _key_in(path: Path, origin: str) -> ApiKey:
    try:
        with path.expanduser().open() as file:
            return _checked(file.read(10_000).strip(), f"{origin} {path}")
    except UnicodeDecodeError:
        raise NodeError(f"{origin}: {path} holds no API key") from None
    except OSError as error:
        raise NodeError(f"{origin}: {path} cannot be read: {error.strerror}") from None


def _checked(secret: str, origin: str) -> ApiKey:
    if not _KEY.fullmatch(secret):
        raise NodeError(f"{origin}: this is no API key (20 or more of A-Z a-z 0-9 . _ ~ -)")
    return ApiKey(secret, origin)


class NodeClient:
    """Calls to one node. Every method raises NodeError."""

    def __init__(self, door: Door, *, call_seconds: float = CALL_SECONDS):
        self._door = door
        self._call_seconds = call_seconds
        self._channel = _channel(door)
        self._metadata = (("x-api-key", door.key.secret),) if door.key else ()

    def __enter__(self) -> "NodeClient":
        return self

    def __exit__(self, *_) -> None:
        self._channel.close()

    @property
    def address(self) -> str:
        return self._door.grpc_address

    def info(self) -> node_pb2.GetInfoResponse:
        return self._call(node_pb2_grpc.NodeStub(self._channel).GetInfo, node_pb2.GetInfoRequest())

    def messages(self, state: str) -> list[messaging_pb2.Message]:
        """The newest MAX_PAGE messages in one state. An answer may have fewer, where bodies are long; the last has none."""
        found: list[messaging_pb2.Message] = []
        while len(found) < MAX_PAGE:
            before = found[-1].id if found else ""
            request = messaging_pb2.ListMessagesRequest(
                state=state, limit=MAX_PAGE - len(found), before=before
            )
            page = self._call(self._messaging.ListMessages, request).messages
            if not page:
                break
            found += page
        return found

    def message(self, message_id: str) -> messaging_pb2.Message:
        return self._call(self._messaging.GetMessage, messaging_pb2.GetMessageRequest(id=message_id)).message

    def payments(self, message_id: str) -> list[messaging_pb2.MessagePayment]:
        request = messaging_pb2.ListMessagePaymentsRequest(id=message_id)
        return list(self._call(self._messaging.ListMessagePayments, request).payments)

    def give_up(self, message_id: str) -> messaging_pb2.GiveUpMessageResponse:
        return self._call(self._messaging.GiveUpMessage, messaging_pb2.GiveUpMessageRequest(id=message_id))

    def send(self, request: messaging_pb2.SendMessageRequest, *, idempotency_key: str | None = None) -> str:
        """The message's id. A call that was broken off can be made again with the key that its NodeError names."""
        once = str(uuid4()) if idempotency_key is None else idempotency_key
        # gRPC's own error would not tell what it is about.
        if not (once.isascii() and once.isprintable()):
            raise NodeError("--idempotency-key: must be of printable ASCII characters; a UUID will do")
        try:
            return self._call(self._messaging.SendMessage, request, ("idempotency-key", once)).id
        except NodeError as error:
            if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                text = f"{error}; with --idempotency-key {once} it can be sent again, and goes out only once"
                raise NodeError(text, away=error.away, code=error.code) from None
            raise

    def peers(self, limit: int) -> list[messaging_pb2.Peer]:
        return list(self._call(self._messaging.ListPeers, messaging_pb2.ListPeersRequest(limit=limit)).peers)

    def leases(self, state: str = "", role: str = "", limit: int = MAX_PAGE) -> list[vpn_pb2.Lease]:
        request = vpn_pb2.ListLeasesRequest(state=state, role=role, limit=limit)
        return list(self._call(vpn_pb2_grpc.VPNStub(self._channel).ListLeases, request).leases)

    def members(self) -> list[federate_pb2.Federation]:
        stub = federate_pb2_grpc.FederateStub(self._channel)
        return list(self._call(stub.ListFederations, federate_pb2.ListFederationsRequest()).federations)

    def subscribe(
        self, *, after: int | None, services: tuple[str, ...], timeout_seconds: float | None = None
    ) -> Iterator[websocket_pb2.SubscribeResponse]:
        """The stream, which ends with NodeError. It is live when this returns."""
        request = websocket_pb2.SubscribeRequest(services=services)
        if after is not None:
            request.after = after
        stub = websocket_pb2_grpc.WebsocketStub(self._channel)
        call = stub.Subscribe(request, metadata=self._metadata, timeout=timeout_seconds)
        try:
            call.initial_metadata()
            # Without an error the headers mean that the subscription is live.
            if not call.is_active():
                next(call)
        except grpc.RpcError as error:
            raise self._explain(error) from None
        except StopIteration:
            raise NodeError("the node ended the stream", away=True) from None
        return self._events(call)

    def _events(self, call) -> Iterator[websocket_pb2.SubscribeResponse]:
        try:
            yield from call
            raise NodeError("the node ended the stream", away=True)
        except grpc.RpcError as error:
            raise self._explain(error) from None
        finally:
            call.cancel()

    @property
    def _messaging(self) -> messaging_pb2_grpc.MessagingStub:
        return messaging_pb2_grpc.MessagingStub(self._channel)

    def _call(self, method, request: Message, *metadata: tuple[str, str]) -> Any:
        try:
            return method(request, metadata=(*self._metadata, *metadata), timeout=self._call_seconds)
        except grpc.RpcError as error:
            raise self._explain(error) from None

    def _explain(self, error: grpc.RpcError) -> NodeError:
        code, details = error.code(), error.details() or ""
        lowered, address, key = details.lower(), self.address, self._door.key
        if (
            "certificate_verify_failed" in lowered
            or "handshake failed" in lowered
            or "wrong_version_number" in lowered
        ):
            text = f"what answers at {address} does not show the certificate in server.tls_cert"
            if self._door.tls_cert and "wrong_version_number" in lowered:
                text = f"what answers at {address} speaks no TLS, though server.tls_cert is set: start the node again"
            return NodeError(text, code=code)
        if "peer name" in lowered:
            text = "the certificate in server.tls_cert names no host (subjectAltName): use another"
            return NodeError(text, code=code)
        if code is grpc.StatusCode.UNAVAILABLE and any(words in lowered for words in _AWAY):
            return NodeError(why_away(self._door), away=True, code=code)
        if code is grpc.StatusCode.UNAUTHENTICATED:
            said = (
                "the node does not know the API key" if "not known" in details else " ".join(details.split())
            )
            text = (
                f"{said} (from {key.origin})"
                if key
                else (
                    f"the node asks for an API key: name a file that holds one by --key-file, or set {KEY_VARIABLE}"
                )
            )
            return NodeError(text, code=code)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"the node at {address} did not answer within {self._call_seconds:.0f} s"
            return NodeError(text, away=True, code=code)
        if code is grpc.StatusCode.UNIMPLEMENTED:
            text = (
                f"the node at {address} does not know this call: it is of another version, or another program"
            )
            return NodeError(text, code=code)
        return NodeError(
            " ".join(details.split()) or code.name,
            away=code is grpc.StatusCode.UNAVAILABLE,
            code=code,
            waits=is_by_node(error.trailing_metadata()),
        )


def _channel(door: Door) -> grpc.Channel:
    if door.tls_cert is None:
        return grpc.insecure_channel(door.grpc_address, options=_OPTIONS)
    # The certificate itself is trusted, whatever name it is for: this machine's own address seldom stands in it.
    # A wildcard stands for one label.
    names = [name.replace("*", "node") for name in names_of(x509.load_pem_x509_certificate(door.tls_cert))]
    options = (*_OPTIONS, *(("grpc.ssl_target_name_override", name) for name in names[:1]))
    return grpc.secure_channel(
        door.grpc_address, grpc.ssl_channel_credentials(door.tls_cert), options=options
    )


def why_away(door: Door) -> str:
    """Why nobody answers at the gRPC door: the HTTP door opens earlier, and tells what the node waits for."""
    told = ask_http(door)
    if told is not None and told[0] == 503 and isinstance(told[1], dict) and told[1].get("message"):
        return f"{told[1]['message']}; ./impervious doctor tells more"
    return f"no node answers at {door.grpc_address}: start it, or ask ./impervious doctor what is wrong"


def ask_http(door: Door) -> tuple[int, object] | None:
    """Status and JSON that GET /v1/node gives at the HTTP door; None when nobody answers there. Of an answer that is no
    JSON the second is None.
    """
    headers = {"Authorization": f"Bearer {door.key.secret}"} if door.key else {}
    connection = _http_connection(door)
    try:
        connection.request("GET", "/v1/node", headers=headers)
        reply = connection.getresponse()
        body = reply.read(1_000_000)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    try:
        return reply.status, json.loads(body)
    except ValueError:
        return reply.status, None


def _http_connection(door: Door) -> http.client.HTTPConnection:
    host, port = door.http_address
    if door.tls_cert is None:
        return http.client.HTTPConnection(host, port, timeout=WHY_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=door.tls_cert.decode("ascii"))
    return http.client.HTTPSConnection(host, port, timeout=WHY_SECONDS, context=context)
