"""The disk and the certificates, as the metrics tell of them."""

from collections import namedtuple
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodeapi.certificates import make_pair, write_pair
from nodeapi.monitoring import surroundings
from nodeapi.monitoring.surroundings import LND, OWN, Seen, Surroundings
from nodeapi.tls import PairFiles
from tests.support.certificates import self_signed
from tests.support.waiting import until_in_loop

Usage = namedtuple("Usage", "total used free")
ADDRESS = ("127.0.0.1", 10_009)
ENDS = datetime(2027, 5, 6, tzinfo=UTC)


async def test_free_space_of_the_disk(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(surroundings, "disk_usage", lambda path: asked.append(path) or Usage(9, 4, 5))
    around = Surroundings(directory=tmp_path)
    assert await around.look() == Seen(disk_free_bytes=5)
    await around.look()
    assert asked == [tmp_path]


async def test_disk_that_is_gone(tmp_path):
    assert await Surroundings(directory=tmp_path / "gone").look() == Seen()


async def test_own_certificate_is_read_anew(tmp_path):
    pair = self_signed(tmp_path)
    files = PairFiles(Path(pair["tls_cert"]), Path(pair["tls_key"]))
    around = Surroundings(directory=tmp_path, tls=files)
    first = (await around.look()).certificate_ends[OWN]
    write_pair(tmp_path, *make_pair([], days=60), replace=True)
    # Made 30 days longer: to the day, whenever this test runs.
    assert ((await around.look()).certificate_ends[OWN] - first).days in (29, 30)


class Lnd:
    def __init__(self) -> None:
        self.error: OSError | None = OSError("away")
        self.asked: list[tuple] = []

    def shown_by(self, host: str, port: int) -> SimpleNamespace:
        self.asked.append((host, port))
        if self.error:
            raise self.error
        return SimpleNamespace(not_valid_after_utc=ENDS)


@pytest.fixture
def lnd(monkeypatch) -> Lnd:
    lnd = Lnd()
    monkeypatch.setattr(surroundings, "shown_by", lnd.shown_by)
    monkeypatch.setattr(surroundings, "CERTIFICATE_RETRY_SECONDS", 0.0)
    return lnd


async def test_certificate_of_lnd_is_the_one_that_it_shows(tmp_path, lnd):
    around = Surroundings(directory=tmp_path, lnd_address=ADDRESS)

    async def ends() -> dict:
        return dict((await around.look()).certificate_ends)

    assert await ends() == {}
    await until_in_loop(lambda: lnd.asked)
    lnd.error = None
    await until_in_loop(ends)
    assert await ends() == {LND: ENDS}
    assert set(lnd.asked) == {ADDRESS}


async def test_process_that_does_not_talk_to_lnd_does_not_ask_for_its_certificate(tmp_path, lnd):
    assert (await Surroundings(directory=tmp_path).look()).certificate_ends == {}
    assert lnd.asked == []
