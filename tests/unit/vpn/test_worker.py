"""Both halves of the VPN's worker run side by side, after the time was taken up."""

import asyncio

import pytest

from tests.support.fake_lnd import connected
from tests.support.vpn_deals import GUARD_SECONDS, SetClock, make_side
from vpn import timing, worker
from vpn.models import KeptClock

pytestmark = pytest.mark.sql


class Half:
    """Of a worker: notes what went before, and fails when it is told to."""

    begun: list[str]
    fails: asyncio.Event

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, context) -> "Half":
        return self

    async def run(self) -> None:
        kept = await asyncio.to_thread(KeptClock.objects.exists)
        Half.begun.append(f"{self._name}, clock kept: {kept}")
        await (Half.fails.wait() if self._name == "buyer" else asyncio.Event().wait())
        raise RuntimeError("a mistake")


@pytest.fixture
def context(database, monkeypatch):
    Half.begun, Half.fails = [], asyncio.Event()
    monkeypatch.setattr(worker, "Seller", Half("seller"))
    monkeypatch.setattr(worker, "Buyer", Half("buyer"))
    (lnd,) = connected("node")
    return make_side(database, lnd, None, SetClock()).context


async def begun(count: int) -> None:
    async with asyncio.timeout(GUARD_SECONDS):
        while len(Half.begun) < count:
            await asyncio.sleep(0)


async def test_halves_begin_when_the_time_was_taken_up_and_end_together(context):
    running = asyncio.create_task(worker.run(context))
    await begun(2)
    assert sorted(Half.begun) == ["buyer, clock kept: True", "seller, clock kept: True"]
    Half.fails.set()
    # The worker is started again as a whole (messaging/workers.py).
    with pytest.raises(ExceptionGroup) as raised:
        await running
    assert [str(error) for error in raised.value.exceptions] == ["a mistake"]


async def test_nothing_begins_before_the_time_was_taken_up(context, monkeypatch):
    may_go_on = asyncio.Event()

    async def take_up(*_) -> None:
        await may_go_on.wait()

    monkeypatch.setattr(timing, "take_up", take_up)
    running = asyncio.create_task(worker.run(context))
    for _ in range(10):
        await asyncio.sleep(0)
    assert Half.begun == []
    may_go_on.set()
    await begun(2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
