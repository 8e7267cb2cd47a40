"""What a running process takes up of a changed configuration, at SIGHUP."""

import asyncio
import logging
import os

from impervious_site.config import Config, ConfigError, load_config
from impervious_site.logs import set_levels
from nodeapi import assembly
from nodeapi.auth import Keys
from nodeapi.tls import PairFiles

logger = logging.getLogger("nodeapi.runtime")


class Reload:
    """Called at SIGHUP. Log levels, the API keys of `server.api_keys` and of the environment, and the pair of TLS are taken
    up at once; of what else has changed the log says that it needs a start.
    """

    def __init__(self, config: Config):
        self._started_with = self._now = config

    async def __call__(self, keys: Keys | None, tls: PairFiles | None) -> None:
        if tls:
            await asyncio.to_thread(tls.current)
        path = self._now.path
        if path is None:
            return
        try:
            new = await asyncio.to_thread(load_config, path, os.environ)
        except ConfigError as error:
            logger.error("SIGHUP: the configuration cannot be used, so that of before goes on: %s", error)
            return
        set_levels(self._now.logging, new.logging)
        if keys:
            keys.configure(assembly.configured_callers(new))
        self._now = new
        logger.info("SIGHUP: log levels, API keys of the configuration and certificates were read again")
        if changed := self._need_a_start(new):
            logger.warning("SIGHUP: has changed, and holds from the next start on: %s", ", ".join(changed))

    def _need_a_start(self, new: Config) -> list[str]:
        before, now = dict(self._started_with), dict(new)
        taken_up = {"logging", "warnings"}
        changed = [
            name for name in now if name not in taken_up and name != "server" and before[name] != now[name]
        ]
        servers = [values["server"].model_copy(update={"api_keys": ()}) for values in (before, now)]
        return [*changed, "server"] if servers[0] != servers[1] else changed
