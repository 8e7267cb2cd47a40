"""Looks that go on whatever happens in one of them."""

import asyncio
import logging

import grpc
import pytest

from lightning.client import LndError, Trouble
from tests.support.vpn_deals import GUARD_SECONDS
from vpn import looking
from vpn.looking import each, look_forever
from vpn.waking import Wake

AWAY = LndError(Trouble.AWAY, "lnd does not answer", code=grpc.StatusCode.UNAVAILABLE)
REFUSED = LndError(Trouble.REFUSED, "lnd: no", code=grpc.StatusCode.UNKNOWN)


async def test_looks_go_on_after_trouble(caplog):
    ends = [AWAY, RuntimeError("a mistake"), None]
    seen = asyncio.Event()

    async def look() -> None:
        end = ends.pop(0)
        if not ends:
            seen.set()
        if end:
            raise end

    with caplog.at_level(logging.WARNING):
        looks = asyncio.create_task(look_forever(look, Wake(), lambda: 0.0, name="sales"))
        async with asyncio.timeout(GUARD_SECONDS):
            await seen.wait()
        looks.cancel()
        await asyncio.gather(looks, return_exceptions=True)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "lnd does not answer; trying again" in caplog.text
    assert "sales could not be looked after" in caplog.text


async def test_bell_ends_a_pause():
    wake, looked = Wake(), 0
    again = asyncio.Event()

    async def look() -> None:
        nonlocal looked
        looked += 1
        if looked == 2:
            again.set()

    looks = asyncio.create_task(look_forever(look, wake, lambda: 10.0 * GUARD_SECONDS, name="sales"))
    async with asyncio.timeout(GUARD_SECONDS):
        while not looked:
            await asyncio.sleep(0)
        # From another thread, as after a commit.
        await asyncio.to_thread(wake.ring)
        await again.wait()
    looks.cancel()
    await asyncio.gather(looks, return_exceptions=True)


def test_bell_of_a_loop_that_has_ended_is_no_error():
    wake = Wake()
    asyncio.run(wake.wait(0))
    wake.ring()


async def test_each_row_has_its_turn_and_what_passes_is_raised():
    done: list[str] = []

    async def step(row: str) -> None:
        if row == "refused":
            raise REFUSED
        if row == "away":
            raise AWAY
        await asyncio.sleep(0)
        done.append(row)

    with pytest.raises(LndError) as caught:
        await each(["one", "away", "refused", "two"], step)
    assert caught.value is AWAY
    assert done == ["one", "two"]
    await each(["refused", "three"], step)
    assert done == ["one", "two", "three"]


async def test_only_so_many_at_once():
    at_once = most = 0

    async def step(row: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        at_once -= 1

    await each(range(3 * looking.AT_ONCE), step)
    assert most == looking.AT_ONCE
