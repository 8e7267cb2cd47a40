"""What a running process takes up of a changed configuration, at SIGHUP."""

import asyncio
import logging
import os

from pydantic import SecretStr

from impervious_site.config import Config, ConfigError, load_config
from impervious_site.logs import set_levels
from lightning.client import LndError
from nodeapi import assembly
from nodeapi.lnd_status import LndStatus
from nodeapi.reloadable import Reloadable

logger = logging.getLogger("nodeapi.runtime")

# Where a part of Config has another name than its section in the file.
SECTIONS = {
    "admin": "sqlite3",
    "services": "service_list",
    "lnd": "lightning.lnd_node",
    "redis_url": "redis.url",
    "answers": "inbound.answers",
    "strangers": "inbound.strangers",
}
# `warnings` are about the others.
TAKEN_UP = frozenset({"logging", "warnings"})


class Reload:
    """Called at SIGHUP. Log levels, the API keys of `server.api_keys` and of the environment, the pair of TLS, and lnd's
    macaroon and certificate are taken up at once, all of them or, if something is wrong, none; of what else has changed the log
    says that it needs a start.
    """

    def __init__(self, config: Config):
        self._started_with = self._now = config
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, parts: Reloadable) -> None:
        async with self._one_at_a_time:
            await self._reload(parts)

    async def _reload(self, parts: Reloadable) -> None:
        if parts.tls:
            await asyncio.to_thread(parts.tls.current)
        path = self._now.path
        if path is None:
            return
        try:
            new = await asyncio.to_thread(load_config, path, os.environ)
            if parts.lnd and _same_lnd(self._started_with, new):
                await _renew_credentials(parts.lnd, new)
        except (ConfigError, LndError) as error:
            logger.error("SIGHUP: the configuration cannot be used, so that of before goes on: %s", error)
            parts.health.refuse_configuration(True)
            return
        parts.health.refuse_configuration(False)
        set_levels(self._now.logging, new.logging)
        if parts.keys:
            parts.keys.configure(assembly.configured_callers(new))
        self._now = new
        logger.info(
            "SIGHUP: log levels, API keys of the configuration, certificates and lnd's macaroon were read again"
        )
        if changed := self._need_a_start(new):
            logger.warning("SIGHUP: has changed, and holds from the next start on: %s", ", ".join(changed))

    def _need_a_start(self, new: Config) -> list[str]:
        before, now = (_only_for_a_start(config) for config in (self._started_with, new))
        return [SECTIONS.get(name, name) for name in now if before[name] != now[name]]


def _same_lnd(before: Config, now: Config) -> bool:
    """Another one is not asked before the next start."""
    return (before.lnd.host, before.lnd.port) == (now.lnd.host, now.lnd.port)


async def _renew_credentials(lnd: LndStatus, new: Config) -> None:
    """LndError if lnd refuses them."""
    await lnd.renew(
        tls_cert=new.lnd.tls_cert,
        macaroon_hex=new.lnd.macaroon_hex.get_secret_value(),
        calls=assembly.lnd_calls(new),
    )


def _only_for_a_start(config: Config) -> dict[str, object]:
    """What a running process does not take up."""
    lnd = config.lnd.model_copy(update={"tls_cert": None, "macaroon_hex": SecretStr("")})
    server = config.server.model_copy(update={"api_keys": ()})
    parts = dict(config) | {"lnd": lnd, "server": server}
    return {name: value for name, value in parts.items() if name not in TAKEN_UP}
