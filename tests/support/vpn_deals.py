"""Both sides of a VPN lease without nodes: settings, messages as they come from the other side, and what workers need.

The database is real; lnd and WireGuard are those of tests.support.fake_lnd and tests.support.fake_wireguard.
"""

import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import orjson
from django.db import models

from invoices.models import InvoicePayment
from messaging.answers import AnswerTerms
from messaging.clock import Clock
from messaging.database import Database
from messaging.models import (
    Account,
    Attempt,
    Direction,
    Event,
    IdempotencyKey,
    Income,
    Message,
    Peer,
    State,
)
from messaging.workers import WorkerContext
from tests.support.fake_lnd import FakeLnd
from vpn import bodies
from vpn.keys import new_key_pair
from vpn.models import (
    Address,
    Answered,
    ClientKey,
    KeptClock,
    Lease,
    LeaseStep,
    LeaseWish,
    Purchase,
    PurchasedLease,
    Quote,
    ReceivedQuote,
    Shop,
    Term,
    UnreliableSeller,
)
from vpn.settings import SERVICE, VpnSettings
from vpn.waking import Wake

GUARD_SECONDS = 600
BUYER, SELLER, OTHER = ("02" + digits * 32 for digits in ("11", "22", "33"))
SERVER_KEY = new_key_pair().public
INTERFACE = "wg0"
# Of 3600 sat an hour one buys a second.
PRICE_SAT = 3600
POSTAGE_SAT = 3
FEE_LIMIT_MSAT = 10_000
# Those that protect others come after them.
TABLES: tuple[type[models.Model], ...] = (
    LeaseWish,
    LeaseStep,
    Address,
    Term,
    Lease,
    Quote,
    Answered,
    Shop,
    KeptClock,
    ReceivedQuote,
    Purchase,
    PurchasedLease,
    ClientKey,
    UnreliableSeller,
    InvoicePayment,
    Message,
    Attempt,
    Event,
    Peer,
    IdempotencyKey,
    Account,
    Income,
)


def vpn_settings(**changes: Any) -> VpnSettings:
    """Of 13 clients, at 1 sat a second."""
    values: dict[str, Any] = {
        "own_pubkey": SELLER,
        "network": "simulated",
        "base_url": "http://127.0.0.1:8882",
        "price_sat": PRICE_SAT,
        "server_ip": "192.0.2.1",
        "server_port": 51820,
        "networks": (ipaddress.ip_network("10.77.0.0/28"),),
        "server_pub_key": SERVER_KEY,
        "allowed_ips": (ipaddress.ip_network("0.0.0.0/0"),),
        "dns": (),
        # Addresses for documentation are no public ones.
        "private_networks": (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("198.51.100.0/24")),
        "binary_path": "/usr/bin/wg",
        "min_seconds": 10,
        "max_seconds": 86_400,
        "quote_seconds": 60,
        "quotes_per_minute": 10,
        "quarantine_seconds": 300,
    }
    return VpnSettings(**(values | changes))


def received(
    type: str,
    *,
    sender: str = BUYER,
    reply_to: UUID | None = None,
    message_id: UUID | None = None,
    **fields: Any,
) -> Message:
    """A message of the other side, as handlers get it."""
    return Message(
        message_id=message_id or uuid4(),
        direction=Direction.IN,
        pubkey=sender,
        service=SERVICE,
        reply_to=reply_to,
        body=bodies.encode(type, **fields),
        amount_msat=POSTAGE_SAT * 1000,
        state=State.RECEIVED,
    )


def forwarded(sent: Message, sender: str) -> Message:
    """What this side has sent, as the other one receives it."""
    return Message(
        message_id=sent.message_id,
        direction=Direction.IN,
        pubkey=sender,
        service=sent.service,
        reply_to=sent.reply_to,
        body=bytes(sent.body),
        amount_msat=sent.amount_msat,
        state=State.RECEIVED,
    )


def body_of(message: Message) -> dict[str, Any]:
    """As the other side reads it."""
    return bodies.decode(bytes(message.body))


def told(event: Event) -> dict[str, Any]:
    return orjson.loads(bytes(event.data))


def types_of(items: Iterable[Message | Event]) -> list[str]:
    """Of messages and events alike."""
    return [orjson.loads(bytes(one.body if isinstance(one, Message) else one.data))["type"] for one in items]


class CountingWake(Wake):
    """A bell that remembers how often it was rung."""

    def __init__(self) -> None:
        super().__init__()
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1
        super().ring()


class SetClock(Clock):
    """Starts now, unless told; from there only `advance` moves it."""

    def __init__(self, start_seconds: float | None = None) -> None:
        self._passed_seconds = 0.0
        self._wall_seconds = time.time() if start_seconds is None else start_seconds
        super().__init__(wall=lambda: self._wall_seconds, steady=lambda: self._passed_seconds)

    def advance(self, seconds: float) -> None:
        self._passed_seconds += seconds
        self._wall_seconds += seconds

    def set_wrong(self, seconds: float) -> None:
        """Somebody sets the wall clock ahead by so much."""
        self._wall_seconds += seconds


@dataclass
class Side:
    """One node's worker context, and what it has sent and told so far."""

    context: WorkerContext
    lnd: FakeLnd
    clock: SetClock
    sent: list[Message] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def settings(self) -> VpnSettings:
        return self.context.settings

    @property
    def database(self) -> Database:
        return self.context.database

    def take_sent(self) -> list[Message]:
        """What was sent since it was asked last."""
        taken, self.sent[:] = list(self.sent), []
        return taken


async def _postage_sat(pubkey: str, service: str) -> int:
    return POSTAGE_SAT


def make_side(
    database: Database, lnd: FakeLnd, settings: VpnSettings, clock: SetClock, payer: Any = None
) -> Side:
    sent: list[Message] = []
    published: list[Event] = []
    context = WorkerContext(
        database=database,
        clock=clock,
        published=published.extend,
        send_stored=sent.extend,
        cost_msat=lambda size, amount_msat: amount_msat,
        answer_terms=AnswerTerms(fee_limit_msat=lambda amount_msat: FEE_LIMIT_MSAT),
        postage_sat=_postage_sat,
        client=lnd,
        payer=payer,
        settings=settings,
    )
    return Side(context, lnd, clock, sent, published)


def open_shop(**fields: Any) -> None:
    """As the worker notes it when it has seen the interface."""
    Shop.objects.update_or_create(
        pk=1, defaults={"interface": INTERFACE, "problem": "", "foreign": []} | fields
    )
