"""Whether the node can do its work: faults and what they mean, and how often the parts are looked at."""

import asyncio
import logging
import time
from collections import namedtuple
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from lightning.client import Trouble
from lightning.keysend import KEYSEND_FEATURE_BIT
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring import asking, health
from nodeapi.monitoring.asking import Asked
from nodeapi.monitoring.health import (
    DEGRADING,
    FULL_BYTES,
    NEARLY_FULL_BYTES,
    PARTS,
    TEXTS,
    Fault,
    Health,
    Report,
    ask_database,
    ask_disk,
    clock_faults,
    decode_report,
    lnd_faults,
)
from protos.lnrpc import lightning_pb2
from tests.support.monotonic import MonotonicClock

STOPS, DEGRADES = Fault("disk", "full"), Fault("redis", "away")
EVERY_FAULT = [Fault(part, reason) for part, reason in TEXTS]


@pytest.fixture
def clock(monkeypatch) -> MonotonicClock:
    clock = MonotonicClock()
    monkeypatch.setattr(asking, "time", clock)
    monkeypatch.setattr(health, "time", clock)
    return clock


# reports


@pytest.mark.parametrize(
    ("faults", "status", "reasons", "warnings"),
    [
        ((), "ready", [], []),
        ((DEGRADES,), "degraded", [], [DEGRADES]),
        ((STOPS,), "unready", [STOPS], []),
        ((DEGRADES, STOPS), "unready", [STOPS], [DEGRADES]),
    ],
)
def test_report(faults, status, reasons, warnings):
    report = Report(faults)
    assert report.ready is (status != "unready")
    assert report.as_json() == {
        "status": status,
        "reasons": [fault.as_json() for fault in reasons],
        "warnings": [fault.as_json() for fault in warnings],
    }


def test_fault_in_words():
    assert STOPS.as_json() == {
        "part": "disk",
        "reason": "full",
        "text": "the disk is full: what cannot be stored is refused",
    }


def test_what_only_degrades_is_known():
    assert TEXTS.keys() >= DEGRADING
    assert set(PARTS) == {part for part, _ in TEXTS}


@pytest.mark.parametrize(
    ("faults", "parts", "stopped"),
    [
        ((STOPS,), ["disk"], True),
        ((STOPS,), ["lnd", "database"], False),
        ((DEGRADES,), ["redis"], False),
        ((DEGRADES, STOPS), iter(["redis", "disk"]), True),
        ((), ["disk"], False),
    ],
)
def test_what_stops_a_service(faults, parts, stopped):
    assert Report(faults).stops(parts) is stopped


@pytest.mark.parametrize("faults", [(), (STOPS,), (DEGRADES, STOPS), tuple(EVERY_FAULT)])
def test_report_between_processes(faults):
    assert decode_report(Report(faults).encode()) == Report(faults)


@pytest.mark.parametrize("text", ["", ",", "disk", "disk:", "disk:unheard_of", "moon:full", ":", "a:b:c"])
def test_report_that_is_not_understood(text):
    assert decode_report(text) == Report(())
    assert decode_report(f"{text},disk:full") == Report((STOPS,))


# parts


def lnd(
    *, reachable: bool = True, synced: bool = True, keysend: bool = True, problem: Trouble | None = None
) -> LndStatus:
    status = LndStatus(SimpleNamespace())
    status.reachable, status.problem = reachable, problem
    status.info = lightning_pb2.GetInfoResponse(synced_to_chain=synced)
    if keysend:
        status.info.features[KEYSEND_FEATURE_BIT].name = "keysend"
    return status


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lnd(), None),
        (lnd(synced=False), "not_synced"),
        (lnd(synced=False, keysend=False), "not_synced"),
        (lnd(keysend=False), "no_keysend"),
        # It has not been asked yet.
        (lnd(reachable=False), None),
        (lnd(reachable=False, problem=Trouble.AWAY), "away"),
        (lnd(reachable=False, problem=Trouble.LOCKED), "locked"),
        (lnd(reachable=False, problem=Trouble.STARTING), "starting"),
        (lnd(reachable=False, problem=Trouble.BUSY), "busy"),
        (lnd(reachable=False, problem=Trouble.REFUSED), "refused"),
        # What has no words of its own.
        (lnd(reachable=False, problem=Trouble.MACAROON), "refused"),
        (lnd(reachable=False, problem=Trouble.CERTIFICATE), "refused"),
    ],
)
def test_lnd(state, reason):
    assert lnd_faults(state) == ([Fault("lnd", reason)] if reason else [])


@pytest.mark.parametrize(
    ("hours", "reachable", "reason"),
    [(0, True, None), (-3, True, "behind"), (7, True, "ahead"), (7, False, None)],
)
def test_clock(hours, reachable, reason):
    """By the newest block's age. An answer from before lnd went away is old anyway."""
    status = lnd(reachable=reachable)
    status.info.best_header_timestamp = int(time.time()) - hours * 3_600
    status.info.chains.add(network="mainnet")
    faults = clock_faults(status)
    assert faults == ([Fault("clock", reason)] if reason else [])
    assert Report(tuple(faults)).ready


async def test_clock_that_is_off_is_told(clock, caplog):
    status = lnd()
    status.info.best_header_timestamp = int(time.time()) + 3 * 3_600
    looking = running(Part().ask)
    looking.watch_lnd(status)
    assert (await looking.look()).as_json()["status"] == "degraded"
    warnings = [record.health for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["clock:behind"]


async def test_database_that_answers(database):
    assert await ask_database(database) == []


class Answering:
    def __init__(self, answer):
        self._answer = answer

    async def read(self, job):
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize(
    ("answer", "reason"), [(OperationalError("secret host"), "away"), (False, "read_only")]
)
async def test_database_that_cannot_do_its_work(answer, reason):
    assert await ask_database(Answering(answer)) == [Fault("database", reason)]


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "reason"),
    [
        (FULL_BYTES - 1, "full"),
        (FULL_BYTES, "nearly_full"),
        (NEARLY_FULL_BYTES - 1, "nearly_full"),
        (NEARLY_FULL_BYTES, None),
    ],
)
def test_disk(tmp_path, monkeypatch, free, reason):
    monkeypatch.setattr(health, "disk_usage", lambda directory: Usage(0, 0, free))
    assert ask_disk(tmp_path) == ([Fault("disk", reason)] if reason else [])
    assert list(tmp_path.iterdir()) == []


def test_disk_that_takes_no_writes(tmp_path, monkeypatch):
    """However much of it is free: a quota, or a read-only disk."""

    def refuse(**options):
        raise OSError("quota exceeded")

    monkeypatch.setattr(health.tempfile, "TemporaryFile", refuse)
    assert ask_disk(tmp_path) == [STOPS]


def test_disk_that_is_gone(tmp_path):
    assert ask_disk(tmp_path / "gone") == [STOPS]


# looking


class Part:
    """Of the node: asked as runimpd is asked by a daphne."""

    def __init__(self, *faults: Fault):
        self.faults: list[Fault] = list(faults)
        self.error: Exception | None = None
        self.asked = 0

    async def ask(self) -> list[Fault]:
        self.asked += 1
        if self.error:
            raise self.error
        return self.faults


def running(*asks: Callable[[], Awaitable[list[Fault]]]) -> Health:
    looking = Health()
    looking.phase = None
    for ask in asks:
        looking.watch_runimpd(ask)
    return looking


async def test_process_that_starts(clock):
    starting = Health()
    assert (await starting.look()).faults == (Fault("node", "starting"),)
    starting.phase = "stopping"
    clock.seconds += 1
    assert (await starting.look()).faults == (Fault("node", "stopping"),)


async def test_process_that_waits_tells_for_what_and_nothing_else(clock):
    """That it starts is no news beside the cause."""
    starting = Health()
    starting.wait_for_database(True)
    assert (await starting.look()).faults == (Fault("database", "away"),)
    starting.wait_for_database(False)
    status = lnd(reachable=False, problem=Trouble.LOCKED)
    starting.watch_lnd(status)
    assert (await starting.look()).faults == (Fault("lnd", "locked"),)
    status.reachable, status.info.best_header_timestamp = True, int(time.time()) + 3 * 3_600
    clock.seconds += 1
    assert (await starting.look()).faults == (Fault("node", "starting"), Fault("clock", "behind"))


async def test_all_parts_are_asked(clock):
    part = Part(STOPS, STOPS)
    looking = running(part.ask)
    looking.watch_lnd(lnd(synced=False))
    looking.watch_redis(SimpleNamespace(listening=False))
    assert (await looking.look()).faults == (Fault("lnd", "not_synced"), STOPS, Fault("redis", "away"))


async def test_parts_that_are_well(clock):
    looking = running(Part().ask)
    looking.watch_lnd(lnd())
    looking.watch_redis(SimpleNamespace(listening=True))
    assert (await looking.look()).faults == ()


async def test_database_and_disk_of_a_file(clock, database, tmp_path, monkeypatch):
    monkeypatch.setattr(health, "disk_usage", lambda directory: Usage(0, 0, 0))
    looking = running()
    looking.watch_database(database, None)
    assert (await looking.look()).faults == ()
    looking = running()
    looking.watch_database(database, tmp_path / "impervious.sqlite3")
    assert (await looking.look()).faults == (STOPS,)


async def test_looks_are_shared(clock):
    part = Part()
    looking = running(part.ask)
    await asyncio.gather(*(looking.look() for _ in range(5)))
    await looking.look()
    assert part.asked == 1
    clock.seconds += 1
    await looking.look()
    assert part.asked == 2


async def test_part_that_comes_later_is_looked_at_at_once(clock):
    looking = running(Part().ask)
    assert (await looking.look()).ready
    looking.watch_runimpd(Part(STOPS).ask)
    assert not (await looking.look()).ready


async def test_question_that_fails(clock, caplog):
    part = Part()
    part.error = ValueError("not foreseen")
    looking = running(part.ask)
    assert (await looking.look()).faults == (Fault("runimpd", "away"),)
    assert "health: runimpd could not be looked at" in caplog.messages


async def test_question_that_is_not_answered(clock, monkeypatch):
    monkeypatch.setattr(health, "Asked", partial(Asked, give_up_seconds=0))
    looking = running(asyncio.Event().wait)
    assert (await looking.look()).faults == (Fault("runimpd", "away"),)


async def test_who_leaves_takes_no_look_from_others(clock):
    answering = asyncio.Event()

    async def ask() -> list[Fault]:
        await answering.wait()
        return [STOPS]

    looking = running(ask)
    leaving, staying = (asyncio.create_task(looking.look()) for _ in range(2))
    for _ in range(3):
        await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    answering.set()
    assert (await staying).faults == (STOPS,)


async def test_changes_are_told_once(clock, caplog):
    caplog.set_level(logging.INFO)
    part = Part()
    looking = running(part.ask)
    await looking.look()
    # The node has started.
    assert [record.health for record in caplog.records] == ["node:starting"]
    caplog.clear()
    for faults in ([STOPS], [STOPS], [], []):
        part.faults = faults
        clock.seconds += 1
        await looking.look()
    assert [(record.levelname, record.health, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "disk:full", f"health: {STOPS.text}"),
        ("INFO", "disk:full", f"health: no longer: {STOPS.text}"),
    ]


async def test_nothing_is_told_of_a_process_that_ends(clock, caplog):
    caplog.set_level(logging.INFO)
    looking = Health()
    looking.phase = "stopping"
    looking.watch_runimpd(Part(STOPS).ask)
    assert STOPS in (await looking.look()).faults
    assert not caplog.records
