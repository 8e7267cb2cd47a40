"""What the node knows of its lnd: the wait for it, its balances, and when it is another one."""

import asyncio
import logging

import pytest

from lightning.client import LndError, Trouble
from lightning.rpcs import Rpc
from nodeapi import lnd_status
from nodeapi.lnd_status import LndStatus, receivable_sat, spendable_sat
from protos.lnrpc import lightning_pb2
from tests.support.fake_lnd import FakeLnd, connected
from tests.support.waiting import GUARD_SECONDS, until_in_loop


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """No pauses between tries."""
    monkeypatch.setattr(lnd_status, "FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(lnd_status, "AWAY_SECONDS", 0)


@pytest.fixture
def lnd() -> FakeLnd:
    return connected("own", "other")[0]


def channel(local: int, remote: int, *, active: bool = True, reserve: int = 10) -> lightning_pb2.Channel:
    constraints = lightning_pb2.ChannelConstraints(chan_reserve_sat=reserve)
    return lightning_pb2.Channel(
        active=active,
        local_balance=local,
        remote_balance=remote,
        local_constraints=constraints,
        remote_constraints=constraints,
    )


@pytest.mark.parametrize(
    ("channels", "spendable", "receivable"),
    [
        ([], 0, 0),
        ([channel(100, 50)], 90, 40),
        ([channel(100, 50), channel(30, 1_000)], 110, 1_030),
        # Below its reserve a side has nothing, and takes nothing from other channels.
        ([channel(5, 50), channel(100, 9)], 90, 40),
        ([channel(100, 50, active=False)], 0, 0),
    ],
)
def test_balances_are_what_can_be_used(channels, spendable, receivable):
    listed = lightning_pb2.ListChannelsResponse(channels=channels)
    assert (spendable_sat(listed), receivable_sat(listed)) == (spendable, receivable)


async def connect(status: LndStatus, expected_pubkey: str = "") -> None:
    await status.connect(expected_pubkey=expected_pubkey, calls=list(Rpc))


async def test_connect(lnd):
    status = LndStatus(lnd)
    assert (status.reachable, status.spendable_sat, status.network) == (False, None, "")
    await connect(status, lnd.pubkey.upper())
    assert (status.reachable, status.trouble, status.problem) == (True, "", None)
    assert status.info.identity_pubkey == lnd.pubkey
    assert 0 < status.spendable_sat < 5_000_000
    described = status.describe()
    assert (described["lnd_reachable"], described["synced"], described["keysend"]) == (True, True, True)
    assert described["warnings"] == []


@pytest.mark.parametrize(
    ("away", "problem"),
    [("stop", Trouble.AWAY), ("lock", Trouble.LOCKED), ("begin_to_start", Trouble.STARTING)],
)
async def test_lnd_that_is_not_there_yet_is_waited_for(lnd, away, problem):
    getattr(lnd, away)()
    told: list[str] = []
    status = LndStatus(lnd, on_wait=told.append)
    assert not status.was_asked
    connecting = asyncio.create_task(connect(status))
    await until_in_loop(lambda: told)
    assert (status.problem, status.reachable, status.was_asked) == (problem, False, True)
    assert told == [f"{status.trouble}; the node waits for it"]
    lnd.start()
    async with asyncio.timeout(GUARD_SECONDS):
        await connecting
    assert (status.problem, status.reachable) == (None, True)


async def test_lnd_that_is_behind_the_chain_is_waited_for(lnd):
    lnd.node.synced = False
    told: list[str] = []
    status = LndStatus(lnd, on_wait=told.append)
    connecting = asyncio.create_task(connect(status))
    await until_in_loop(lambda: len(lnd.requests(Rpc.GET_INFO)) >= 3)
    assert not connecting.done()
    assert told == ["lnd is not in sync with the chain yet; the node waits for it"]
    lnd.node.synced = True
    async with asyncio.timeout(GUARD_SECONDS):
        await connecting


async def test_waiting_mends_nothing(lnd):
    with pytest.raises(LndError) as error:
        await connect(LndStatus(lnd), "02" * 33)
    assert error.value.trouble is Trouble.WRONG_NODE
    lnd.node.accepts_keysend = False
    with pytest.raises(LndError) as error:
        await connect(LndStatus(lnd))
    assert error.value.trouble is Trouble.NO_KEYSEND


async def test_return_of_lnd_is_told(lnd, caplog):
    caplog.set_level(logging.WARNING)
    returns = []
    status = LndStatus(lnd, on_return=lambda: returns.append(1))
    await status.refresh()
    await status.refresh()
    assert len(returns) == 1
    lnd.stop()
    for _ in range(2):
        with pytest.raises(LndError):
            await status.refresh()
    assert (status.reachable, status.problem) == (False, Trouble.AWAY)
    assert len(caplog.messages) == 1
    assert status.describe()["warnings"] == [status.trouble]
    lnd.start()
    await status.refresh()
    assert len(returns) == 2


async def test_lnd_that_is_another_one_now(lnd, monkeypatch):
    status = LndStatus(lnd)
    await status.refresh()
    before = status.info
    monkeypatch.setattr(lnd.node, "pubkey", b"\x03" * 33)
    with pytest.raises(LndError) as error:
        await status.refresh()
    assert error.value.trouble is Trouble.WRONG_NODE
    assert status.info is before


async def test_status_is_kept_fresh(lnd, monkeypatch):
    monkeypatch.setattr(lnd_status, "REFRESH_SECONDS", 0)
    status = LndStatus(lnd)
    await status.refresh()
    running = asyncio.create_task(status.run())
    lnd.stop()
    await until_in_loop(lambda: not status.reachable)
    lnd.start()
    await until_in_loop(lambda: status.reachable)
    lnd.node.synced = False
    await until_in_loop(lambda: not status.info.synced_to_chain)
    running.cancel()
    await asyncio.wait({running})


async def test_look_that_is_asked_for_comes_at_once(lnd, monkeypatch):
    monkeypatch.setattr(lnd_status, "REFRESH_SECONDS", 6_000)
    status = LndStatus(lnd)
    await status.refresh()
    running = asyncio.create_task(status.run())
    lnd.node.synced = False
    status.look_soon()
    await until_in_loop(lambda: not status.info.synced_to_chain)
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize(
    ("spendable", "receivable", "words"),
    [
        (1_000, 1_000, []),
        (999, 1_000, ["hardly anything can be sent"]),
        (1_000, 999, ["hardly anything can be received"]),
        (None, None, ["hardly anything can be sent", "hardly anything can be received"]),
    ],
)
async def test_warnings_of_balances(lnd, spendable, receivable, words):
    status = LndStatus(lnd)
    await status.refresh()
    status.spendable_sat, status.receivable_sat = spendable, receivable
    warnings = status.describe()["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == words


async def test_warnings_of_lnd_itself(lnd):
    status = LndStatus(lnd)
    lnd.node.synced = lnd.node.accepts_keysend = False
    await status.refresh()
    assert status.describe()["warnings"] == [
        "lnd is not in sync with the chain",
        "keysend is switched off in lnd: nothing can be received",
    ]


def drained() -> FakeLnd:
    """A node whose public channel receives nothing now, and a private one with room."""
    own, other = connected("own", "other")
    network = own.services.network
    network.graph.of(own.node.id)[0].balances = [10_000_000_000, 0]
    network.open_channel(own.node, other.node, private=True)
    return own


async def test_public_channels_that_receive_nothing_are_told():
    status = LndStatus(own := drained())
    await status.refresh()
    assert status.receivable_sat > 1_000_000
    assert status.describe()["warnings"] == [lnd_status.ONLY_PRIVATE_RECEIVE]
    assert len(status.reply_hints) == 1
    own.services.network.graph.of(own.node.id)[0].balances = [5_000_000_000, 5_000_000_000]
    await status.refresh()
    assert status.describe()["warnings"] == []
    assert status.reply_hints == ()


async def test_private_channels_are_told_as_hints():
    own, _ = connected("own", "other", private=["own"])
    status = LndStatus(own)
    await status.refresh()
    assert len(status.reply_hints) == 1
    public, _ = connected("own", "other")
    status = LndStatus(public)
    await status.refresh()
    assert status.reply_hints == ()


async def test_new_credentials(lnd):
    """They are tried first; while lnd is away they cannot be."""
    status = LndStatus(lnd)
    await connect(status)
    before = lnd.server.macaroon.hex()
    weak = lnd.server.bakery.bake([("info", "read"), ("macaroon", "read")]).hex()
    for macaroon_hex in ("00" * len(lnd.server.macaroon), weak):
        with pytest.raises(LndError) as error:
            await status.renew(tls_cert=None, macaroon_hex=macaroon_hex, calls=list(Rpc))
        assert error.value.trouble is Trouble.MACAROON
        await status.refresh()
    full = lnd.server.bakery.bake([("uri", rpc.path) for rpc in Rpc]).hex()
    await status.renew(tls_cert=None, macaroon_hex=full, calls=list(Rpc))
    await status.refresh()
    assert lnd.server.macaroons[-1] == full != before
    lnd.stop()
    await status.renew(tls_cert=None, macaroon_hex=before, calls=list(Rpc))
    lnd.start()
    await status.refresh()
    assert lnd.server.macaroons[-1] == before
