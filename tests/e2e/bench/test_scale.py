"""The scale test's short form: clients of two daphnes, of which one is killed and one restarted under traffic."""

import asyncio
from collections.abc import Iterator

import pytest

from bench.scale.run import Plan, scale
from tests.support.servers import PostgresServer, RedisServer


@pytest.fixture
def servers(tmp_path, monkeypatch) -> Iterator[None]:
    """Of this test alone: PostgreSQL is set to write to the disk."""
    with PostgresServer() as postgres, RedisServer(tmp_path) as redis:
        monkeypatch.setenv("TEST_POSTGRES_URL", postgres.url)
        monkeypatch.setenv("TEST_REDIS_URL", redis.url)
        yield


@pytest.mark.usefixtures("servers")
@pytest.mark.long
def test_every_client_that_returns_with_its_cursor_misses_nothing(tmp_path):
    result = asyncio.run(scale(tmp_path, Plan(clients=200, rates=(20,), seconds=3), say=print))
    assert result.good
    assert all(cut_off > 0 for _, cut_off, _ in result.returns)
