"""Service type ↔ record number ↔ handler.

A service is one row of HANDLERS. A handler is a function that gets a received Message inside the transaction that stores
it, and says what follows from it: `def handle(message: Message) -> Reaction`. It may read and write the database and nothing
else; what it answers with is sent after the commit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from django.utils.module_loading import import_string

from messaging.models import Event, Message


@dataclass(frozen=True)
class Reaction:
    """Events to publish, and messages to send (made by `messaging.outgoing.new_message`), of whatever service.
    `dropped` is a reason, a word or two joined by underscores, why nothing follows from the message: it is counted
    and logged."""

    events: list[Event] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    dropped: str = ""


Handler = Callable[[Message], Reaction]

HANDLERS = {
    "message": "messaging.handlers.publish",
    "websocket": "messaging.handlers.publish",
    "sign": "messaging.handlers.publish",
    "socket": "messaging.handlers.publish_socket",
}
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

    @property
    def state(self) -> str:
        if not self.active:
            return "off"
        return "running" if self.handler else "unavailable"


class Registry:
    """The services of this node, by type and by record number. Numbers and types are unique."""

    def __init__(self, rows: Iterable[ServiceConfig]):
        self.services = tuple(
            Service(
                service_type=row.service_type,
                record_number=row.custom_record_number,
                active=row.active,
                handler=import_string(HANDLERS[row.service_type]) if row.service_type in HANDLERS else None,
            )
            for row in rows
        )
        self._by_type = {service.service_type: service for service in self.services}
        self._by_number = {service.record_number: service for service in self.services}

    def by_type(self, service_type: str) -> Service | None:
        return self._by_type.get(service_type)

    def by_number(self, record_number: int) -> Service | None:
        return self._by_number.get(record_number)
