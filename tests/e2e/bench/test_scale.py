"""The scale test's short form: clients of two daphnes, of which one is killed and one restarted under traffic."""

import asyncio

from bench.scale.run import Plan, scale


def test_every_client_that_returns_with_its_cursor_misses_nothing(tmp_path):
    result = asyncio.run(scale(tmp_path, Plan(clients=200, rates=(20,), seconds=3), say=print))
    assert result.good
    assert all(cut_off > 0 for _, cut_off, _ in result.returns)
