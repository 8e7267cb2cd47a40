"""What calls do: their replies tell of them, and the stream of what comes back."""

from collections.abc import AsyncIterator

import pytest

from federation import services, steps
from federation.models import Federation, Step, Wish
from federation.settings import FederationSettings
from federation.states import State
from messaging.database import Database
from messaging.models import Event, Message
from messaging.outbox import Outbox
from tests.support.outboxes import Courier, make_outbox, running
from tests.support.tables import emptied

PUBKEY = "02" + "11" * 32
SETTINGS = FederationSettings(
    own_pubkey="03" + "cd" * 32, imp_id="us", ttl_seconds=3_600, accept="auto", max_members=100
)


@pytest.fixture
def tables(migrated: None):
    yield from emptied((Federation, Step, Wish, Event, Message))


@pytest.fixture
async def database(tables: None) -> AsyncIterator[Database]:
    database = Database()
    yield database
    await database.close()


@pytest.fixture
async def outbox(database: Database) -> AsyncIterator[Outbox]:
    outbox = make_outbox(database, Courier(), services={"federate": 100_000})
    async with running(outbox):
        yield outbox


async def federate_events(database: Database) -> list[Event]:
    return await database.read(lambda: list(Event.objects.filter(service_type="federate")))


async def test_a_request_of_this_node_is_no_event(database, outbox):
    await services.federation_request(
        outbox=outbox, settings=SETTINGS, pubkey=PUBKEY, expires_seconds=60, claim=None
    )
    assert await database.read(lambda: Federation.objects.get().state) == State.REQUESTED
    assert await federate_events(database) == []


async def test_leaving_by_a_call_is_no_event(database, outbox):
    await services.federation_request(
        outbox=outbox, settings=SETTINGS, pubkey=PUBKEY, expires_seconds=60, claim=None
    )
    await services.federation_leave(
        outbox=outbox, settings=SETTINGS, pubkey=PUBKEY, expires_seconds=60, claim=None
    )
    assert await database.read(lambda: Federation.objects.get().state) == State.LEFT
    assert await federate_events(database) == []


async def test_leaving_by_the_operator_is_told(database, outbox):
    await services.federation_request(
        outbox=outbox, settings=SETTINGS, pubkey=PUBKEY, expires_seconds=60, claim=None
    )
    reaction = await database.read(lambda: steps.leave_by_operator(PUBKEY, SETTINGS))
    (message,), (event,) = reaction.answers, reaction.events
    assert (event.message_id, event.from_pubkey) == (message.message_id, "")
