"""The first start on a database that has come back from a backup."""

from collections.abc import Iterator

import pytest
from django.db import connection

from federation.models import Wish
from federation.worker import _due as federation_due
from messaging.models import Event
from nodeapi.backups import returned
from nodeapi.backups.returned import Mark
from nodeapi.models import AuditEntry
from tests.support.tables import emptied
from tests.support.vpn_deals import BUYER, TABLES
from vpn import wishes
from vpn.models import Lease, LeaseWish

pytestmark = pytest.mark.sql

MARK = Mark(made_at="2026-11-29T12:00:00Z", stamp="20261130T120000.000000Z", seq=1_000_000, files={})


@pytest.fixture
def tables(migrated: None) -> Iterator[None]:
    yield from emptied((*TABLES, Wish, AuditEntry))


@pytest.fixture
def came_back(tables: None, monkeypatch) -> None:
    """As the restore leaves the database."""
    monkeypatch.setattr(returned, "places_of", lambda config: {})
    with connection.cursor() as cursor:
        for statement, values in MARK.statements(placeholder="%s"):
            cursor.execute(statement, values)


def lease_wish(action: str) -> LeaseWish:
    lease = Lease.objects.create(
        contract_id=BUYER[2:34], buyer=BUYER, nonce=action, wg_key=action, price_sat=1, state="active"
    )
    return LeaseWish.objects.create(lease=lease, action=action, seconds=3_600, asked_by="admin")


def test_open_actions_of_the_operator_are_not_carried_out_again(came_back):
    extend = lease_wish("extend")
    leave = Wish.objects.create(pubkey=BUYER, action="leave", asked_by="admin")
    assert wishes.open_wishes()
    returned.finish(None)
    for wish in (extend, leave):
        wish.refresh_from_db()
        assert wish.done_at is not None
        assert wish.outcome.startswith("not done: restored from a backup of 2026-11-29")
    assert wishes.open_wishes() == []
    assert federation_due()[1] == []
    assert Event.objects.get().seq == 1_000_000


def test_what_is_asked_for_afterwards_is_done(came_back):
    returned.finish(None)
    wish = lease_wish("end")
    # The database has come back once.
    returned.finish(None)
    assert wishes.open_wishes() == [wish.pk]


def test_outcome_of_an_action_that_was_done_stays(came_back):
    wish = lease_wish("extend")
    LeaseWish.objects.update(done_at="2026-11-29T11:00:00Z", outcome="done")
    returned.finish(None)
    wish.refresh_from_db()
    assert wish.outcome == "done"
