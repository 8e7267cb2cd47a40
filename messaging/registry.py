"""Service type ↔ record number ↔ handler, and what else a service may bring: a row in a table, each a dotted path.

HANDLERS: a function that gets a received Message inside the transaction that stores it, and says what follows from it:
`def handle(message: Message) -> Reaction`. It may read and write the database and nothing else; what it answers with is
sent after the commit. A service that was given settings (assembly.py) gets them too: `handle(message, *, settings=…)`.

WORKERS: `async def run(context: WorkerContext)` (messaging/workers.py), run by the engine while the service is active.

ANSWERS: `def is_answer(asked: bytes, body: bytes | None) -> bool`, whether a message with this body (None while it is not
known) is what a message of this node with the body `asked` asks for. Such a message is let in below the price. Without it
whatever replies to a message is an answer.

ON_FAILED: `def failed(message: Message, cause: str) -> list[Event]`, for each message of the service that will never be
delivered, in the transaction that says so, whether or not the service is active.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from django.utils.module_loading import import_string

from messaging.models import Event, Message


@dataclass(frozen=True)
class Reaction:
    """Events to publish, and messages to send (made by `messaging.outgoing.new_message`), of whatever service: 1 sat each,
    and sent only as far as the received message pays for them with their fees (messaging/answers.py).
    `dropped` is the reason, a word, when nothing follows from a message because something is wrong with it: it is counted.
    """

    events: list[Event] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    dropped: str = ""


Handler = Callable[[Message], Reaction]
OnFailed = Callable[[Message, str], list[Event]]

HANDLERS = {
    "message": "messaging.handlers.publish",
    "websocket": "messaging.handlers.publish",
    "sign": "messaging.handlers.publish",
    "federate": "federation.handlers.handle",
    "vpn": "vpn.handlers.handle",
    "socket": "messaging.handlers.publish_socket",
}
WORKERS = {
    "federate": "federation.worker.run",
    "vpn": "vpn.worker.run",
}
ON_FAILED = {
    "federate": "federation.handlers.failed",
    "vpn": "vpn.handlers.failed",
}
ANSWERS = {
    "federate": "federation.handlers.is_answer",
    "vpn": "vpn.handlers.is_answer",
}
# What each is for, in the operator's words.
ABOUT = {
    "federate": "nodes that hold each other as members, for a time",
    "vpn": "WireGuard tunnels, sold by the hour",
    "websocket": "raw bytes that programs put on another node's stream (POST /v1/websocket/send), and what others put on ours; "
    "programs can listen to the stream without it",
    "message": "messages, long and short",
    "socket": "a UDP relay for two programs, offered to another node",
    "sign": "signatures by the node's key, made and checked (POST /v1/sign, /v1/verify); what others send under it is told "
    "on the stream as it is",
}
# The stream's service types besides those of services: what became of messages, invoices, the relay, the log itself.
OTHER_EVENT_TYPES = frozenset({"delivery", "lightning", "relay", "log"})
# Of these services a record without our magic bytes is published too, as it is.
FOREIGN_WELCOME = frozenset({"message", "websocket"})


class ServiceConfig(Protocol):
    """A row of the configuration's service_list."""

    service_type: str
    active: bool
    custom_record_number: int


@dataclass(frozen=True, kw_only=True)
class Service:
    service_type: str
    record_number: int
    active: bool
    handler: Handler | None
    worker: Callable[..., Awaitable[None]] | None = None
    settings: Any = None

    @property
    def state(self) -> str:
        if not self.active:
            return "off"
        return "running" if self.handler else "unavailable"

    def react(self, message: Message) -> Reaction:
        """What follows from a message. Only of a service that has a handler."""
        if self.handler is None:
            raise TypeError(f"the service {self.service_type!r} has no handler")
        return self.handler(message)


class Registry:
    """The services of this node, by type and by record number. Numbers and types are unique. `settings` are what the
    handlers and workers of some services need to know, by service type.
    """

    def __init__(self, rows: Iterable[ServiceConfig], settings: Mapping[str, Any] | None = None):
        settings = settings or {}
        self.services = tuple(
            Service(
                service_type=row.service_type,
                record_number=row.custom_record_number,
                active=row.active,
                handler=_handler(row.service_type, settings.get(row.service_type)),
                worker=import_string(WORKERS[row.service_type]) if row.service_type in WORKERS else None,
                settings=settings.get(row.service_type),
            )
            for row in rows
        )
        self._by_type = {service.service_type: service for service in self.services}
        self._by_number = {service.record_number: service for service in self.services}

    def of_type(self, service_type: str) -> Service:
        """KeyError when the configuration does not name it."""
        return self._by_type[service_type]

    def by_type(self, service_type: str) -> Service | None:
        return self._by_type.get(service_type)

    def by_number(self, record_number: int) -> Service | None:
        return self._by_number.get(record_number)


def _handler(service_type: str, settings: Any) -> Handler | None:
    if service_type not in HANDLERS:
        return None
    handler = import_string(HANDLERS[service_type])
    return partial(handler, settings=settings) if settings is not None else handler


def is_answer(service_type: str, asked: bytes, body: bytes | None) -> bool:
    """Whether a received message is what one of ours, of the same service, asks for."""
    return service_type not in ANSWERS or bool(import_string(ANSWERS[service_type])(asked, body))


def on_failed(service_type: str) -> OnFailed | None:
    """What is to be done for messages of this service that fail."""
    return import_string(ON_FAILED[service_type]) if service_type in ON_FAILED else None
