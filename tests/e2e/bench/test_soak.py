"""The soak's short form: each fault once under traffic, in an order of its own each time."""

import asyncio
import random

import pytest

from bench.soak import real_lnd
from bench.soak.run import Plan, soak
from tests.support.examples import LONG
from tests.support.real_lnd import available

KILLS = 6 if LONG else 2
MOST_MINUTES = 5


def test_nothing_is_lost_doubled_or_paid_twice_whatever_is_killed(tmp_path):
    plan = Plan(seed=random.randrange(10**9), kills=KILLS, minutes=MOST_MINUTES)
    result = asyncio.run(soak(tmp_path, plan))
    assert result.verdict.good, result.text()


@pytest.mark.long
@pytest.mark.real_lnd
@pytest.mark.skipif(not available(), reason="real_lnd: lnd and btcd are not on PATH; not run")
def test_messages_go_on_after_dead_payments_of_a_real_lnd(tmp_path):
    plan = Plan(seed=random.randrange(10**9), kills=10, minutes=20)
    result = asyncio.run(real_lnd.soak(tmp_path, plan, dead_payment_seconds=60))
    assert result.verdict.good, result.text()
    assert result.verdict.counts["dead payments"], result.text()
