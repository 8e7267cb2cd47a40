"""What SIGHUP takes up of a changed configuration."""

import logging

import pytest
import yaml

from impervious_site.config import load_config
from impervious_site.reload import Reload
from lightning.client import LndError, Trouble
from nodeapi.monitoring.health import Fault, Health
from nodeapi.reloadable import Reloadable

LND = {"ip": "127.0.0.1", "port": 10009, "admin_macaroon_hex": "00ff"}


class Taken:
    """The keys of a node, its pair of TLS and its lnd, as far as a reload touches them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.looked = 0
        self.macaroons: list[str] = []
        self.refusal: LndError | None = None
        self.health = Health()

    @property
    def parts(self) -> Reloadable:
        return Reloadable(health=self.health, keys=self, tls=self, lnd=self)

    async def reports_refusal(self) -> bool:
        return Fault("configuration", "refused") in (await self.health.look()).faults

    async def renew(self, *, tls_cert, macaroon_hex, calls) -> None:
        if self.refusal:
            raise self.refusal
        self.macaroons.append(macaroon_hex)

    def configure(self, callers) -> None:
        self.names = [caller.name for caller in callers]

    def current(self) -> None:
        self.looked += 1


@pytest.fixture
def config(tmp_path):
    def write(**sections):
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump({"lightning": {"lnd_node": LND}, **sections}))
        return path

    return write


@pytest.fixture(autouse=True)
def levels():
    names = ("messaging", "nodeapi.relay")
    before = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger().level
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger().setLevel(root)


async def test_levels_keys_and_certificates(config, tmp_path, caplog):
    (tmp_path / "shop.key").write_text("a-key-that-is-long-enough-for-anybody")
    (tmp_path / "shop.key").chmod(0o600)
    parts = {"parts": {"nodeapi.relay": "error"}}
    reload, taken = Reload(load_config(config(logging=parts), {})), Taken()
    shop = {"name": "shop", "key_file": "shop.key", "scopes": ["read"]}
    config(logging={"level": "debug"}, server={"api_keys": [shop]})
    caplog.set_level(logging.INFO)
    await reload(taken.parts)
    assert taken.names == ["shop"]
    assert taken.looked == 1
    assert logging.getLogger("messaging").level == logging.DEBUG
    assert logging.getLogger("nodeapi.relay").level == logging.NOTSET
    assert "holds from the next start on" not in caplog.text


async def test_what_needs_a_start_is_named_each_time(config, caplog):
    reload = Reload(load_config(config(), {}))
    config(message={"in_flight": 5}, server={"http_addr": "127.0.0.1:1234"})
    for _ in range(2):
        caplog.clear()
        await reload(Reloadable(health=Health()))
        assert "holds from the next start on: server, message" in caplog.text


async def test_configuration_that_cannot_be_used(config, caplog):
    reload, taken = Reload(load_config(config(), {})), Taken()
    config(message={"in_flight": "many"})
    await reload(taken.parts)
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "that of before goes on: message.in_flight" in error.getMessage()
    assert (taken.names, taken.macaroons) == ([], [])
    assert await taken.reports_refusal()
    config(logging={"level": "debug"})
    await reload(taken.parts)
    assert not await taken.reports_refusal()
    assert logging.getLogger("messaging").level == logging.DEBUG


async def test_credentials_of_lnd(config, caplog):
    """What lnd refuses is not taken up, nor is the rest then; another lnd needs a start."""
    reload, taken = Reload(load_config(config(), {})), Taken()
    config(lightning={"lnd_node": LND | {"admin_macaroon_hex": "00aa"}}, logging={"level": "debug"})
    taken.refusal = LndError(Trouble.MACAROON, "the macaroon does not permit SendPaymentV2")
    await reload(taken.parts)
    assert "that of before goes on: the macaroon does not permit SendPaymentV2" in caplog.text
    assert await taken.reports_refusal()
    assert logging.getLogger("messaging").level != logging.DEBUG
    taken.refusal = None
    caplog.clear()
    await reload(taken.parts)
    assert taken.macaroons == ["00aa"]
    assert "holds from the next start on" not in caplog.text
    config(lightning={"lnd_node": LND | {"admin_macaroon_hex": "00bb", "port": 10010}})
    await reload(taken.parts)
    assert taken.macaroons == ["00aa"]
    assert "holds from the next start on: lightning.lnd_node" in caplog.text
