"""The hostile flood's short form: the node lives, stays small, and delivers what is good."""

import asyncio
import random

from bench.soak.hostile import flood
from tests.support.examples import examples

PAYMENTS = examples(2_000)


def test_hostile_payments_harm_neither_the_node_nor_good_messages(tmp_path):
    result = asyncio.run(flood(tmp_path, seed=random.randrange(10**9), payments=PAYMENTS))
    assert result.verdict.good, result.text()
