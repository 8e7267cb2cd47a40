"""The soak's short form: each fault once under traffic, in an order of its own each time."""

import asyncio
import random

from bench.soak.run import Plan, soak
from tests.support.examples import LONG

KILLS = 6 if LONG else 2
MOST_MINUTES = 5


def test_nothing_is_lost_doubled_or_paid_twice_whatever_is_killed(tmp_path):
    plan = Plan(seed=random.randrange(10**9), kills=KILLS, minutes=MOST_MINUTES)
    result = asyncio.run(soak(tmp_path, plan))
    assert result.verdict.good, result.text()
