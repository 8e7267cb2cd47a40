"""Whatever is taken and given back, in whatever order: no address has two leases, and the one that is free for longest
goes first.
"""

import ipaddress
import secrets
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from vpn import addresses
from vpn.models import Address, Lease, LeaseStep
from vpn.pool import Pool
from vpn.states import LeaseState

POOL = Pool((ipaddress.ip_network("10.0.0.0/29"),))


@pytest.fixture(scope="module", autouse=True)
def migrated():
    call_command("migrate", verbosity=0)


def new_lease(**fields) -> Lease:
    values = {
        "contract_id": uuid4(),
        "buyer": "02",
        "nonce": secrets.token_hex(16),
        "wg_key": secrets.token_hex(8),
    }
    return Lease.objects.create(price_sat=1, state=LeaseState.HELD, **values | fields)


def empty() -> None:
    for model in (Address, LeaseStep, Lease):
        model.objects.all().delete()


@settings(max_examples=examples(25), deadline=None)
@given(st.lists(st.booleans() | st.integers(0, 5), max_size=30))
def test_no_address_has_two_leases_and_the_longest_free_goes_first(steps):
    empty()
    holding: dict[int, Lease] = {}
    free = list(POOL.clients)
    for step in steps:
        if step is True or step is False or not holding:
            lease = new_lease()
            taken = addresses.take(lease, POOL)
            assert taken == (free.pop(0) if free else None)
            if taken is not None:
                holding[taken] = lease
        else:
            client = sorted(holding)[step % len(holding)]
            addresses.free(holding.pop(client))
            free.append(client)
        assert addresses.any_free(POOL) == bool(free)
    assert dict(Address.objects.exclude(lease=None).values_list("client", "lease_id")) == {
        client: lease.pk for client, lease in holding.items()
    }


def test_the_database_refuses_a_second_holder_of_a_key_and_a_second_contract_of_one_id():
    empty()
    first = new_lease(holds_key=True)
    new_lease(wg_key=first.wg_key)
    for fields in (
        {"wg_key": first.wg_key, "holds_key": True},
        {"contract_id": first.contract_id},
        {"nonce": first.nonce},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            new_lease(**fields)
    addresses.take(first, POOL)
    with pytest.raises(IntegrityError), transaction.atomic():
        Address.objects.create(client=POOL.clients[0])
    with pytest.raises(IntegrityError), transaction.atomic():
        Address.objects.create(client=POOL.clients[3], lease=first)
