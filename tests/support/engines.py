"""An engine on a real database beside an lnd in memory, and what other nodes send to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from messaging.database import Database
from messaging.joining import Bounds
from messaging.models import Event
from messaging.policy import Rules
from messaging.registry import Registry
from messaging.traffic import Limits
from nodeapi.engine import Engine, EngineLimits
from nodeapi.lnd_status import LndStatus
from nodeapi.relay.service import RelayOptions
from nodeapi.retention import Keep
from tests.support.fake_lnd import FakeLnd
from tests.support.lnd_rpc import keysend_request
from tests.support.records import item, packet, sealed

RECORD_NUMBERS = {"message": 400_000, "sign": 400_001, "unheard_of": 400_002}
# The second is switched off, and of the third this version has no handler.
SERVICES = [
    SimpleNamespace(service_type=name, active=name != "sign", custom_record_number=number)
    for name, number in RECORD_NUMBERS.items()
]
LIMITS = EngineLimits(
    bounds=Bounds(max_bytes=1_000, per_peer=4, in_all=8, received_bytes=10_000, seconds=60),
    inbound={name: Rules() for name in RECORD_NUMBERS},
    traffic=Limits(in_flight=8, in_flight_per_peer=4),
    expires_seconds=3_600,
    max_fee_sat=4,
    max_fee_percent=1.0,
    max_amount_sat=None,
    daily_budget_sat=None,
    dead_payment_seconds=600,
    keep=Keep(events_days=None, messages_days=None),
)
RELAY = RelayOptions(
    server_ip="127.0.0.1", port_range=None, pin=True, max_bytes_per_second=None, idle_seconds=None
)


async def make_engine(database: Database, client: FakeLnd, *, events: list[Event] | None = None) -> Engine:
    """Whose lnd has answered; `events` gets what it publishes."""
    lnd = LndStatus(client)
    await lnd.refresh()
    published = [] if events is None else events
    return Engine(
        database=database,
        client=client,
        lnd=lnd,
        registry=Registry(SERVICES),
        limits=LIMITS,
        relay=RELAY,
        version="1.2.3",
        feed=published.extend,
    )


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[asyncio.Task]:
    task = asyncio.create_task(engine.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def send_message(sender: FakeLnd, recipient: FakeLnd, body: bytes, **fields: Any) -> None:
    """A keysend with a message, as another node of ours sends it."""
    own = bytes.fromhex(recipient.pubkey)
    records = {
        RECORD_NUMBERS["message"]: sealed(sender.node.key, packet(item(body, **fields)), recipient=own)
    }
    await sender.send_payment(keysend_request(recipient.pubkey, records))
