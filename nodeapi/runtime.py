"""Starts and stops the parts of the node in their order: the runimpd process, and the API of a daphne beside it."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import daphne.server
from channels.routing import get_default_application
from django.db import OperationalError

from lightning.client import LndClient, LndError
from messaging.database import Database
from messaging.epoch import OvertakenError
from messaging.models import InvoiceMark
from messaging.required import required
from nodeapi import assembly, descriptors, schema, signals, systemd
from nodeapi.doors import STARTING, Doors
from nodeapi.entry import WAITING_FOR_DATABASE, api_entry
from nodeapi.errors import StartError
from nodeapi.first_start import refuse_newer
from nodeapi.http_server import HttpServer
from nodeapi.lnd_status import LndStatus
from nodeapi.locks import lock_of
from nodeapi.monitoring.pages import EarlyMetrics
from nodeapi.monitoring.rpc_health import RunimpdHealth
from nodeapi.reloadable import Reload, Reloadable
from nodeapi.rpc_server import RpcServer
from nodeapi.web import ApiApplication

logger = logging.getLogger("nodeapi.runtime")

Result = TypeVar("Result")

# An event loop holds its tasks only weakly.
_background: set[asyncio.Task] = set()

# For what is begun to be answered at a stop; systemd waits longer (TimeoutStopSec).
DRAIN_SECONDS = 10.0
AWAY_SECONDS = 2.0
SWITCH_SECONDS = 0.0005


class Runtime:
    """One run of the node. `run` blocks until a signal, and raises StartError when something only the operator can mend."""

    def __init__(
        self,
        config,
        *,
        version: str,
        with_http: bool,
        before: Callable[[], None],
        on_started: Callable[[str], None],
        reload: Reload,
    ):
        self._config = config
        self._before = before
        self._version = version
        self._with_http = with_http and config.server.enabled
        self._on_started = on_started
        self._reload = reload
        self._lock = lock_of(config.database)
        self._tls = assembly.make_tls(config)
        self._at_terminal = os.isatty(0)
        self._lock_tries = self._lock.tries()
        # Until the next try; None as soon as the lock is held.
        self._pause_seconds: float | None = None
        self._epoch: int | None = None
        self._prepared = asyncio.Event()
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._doors: Doors | None = None
        self._lnd: LndStatus | None = None

    def run(self) -> None:
        # The database threads hand over to the event loop many times a second: the default of 5 ms would be felt.
        sys.setswitchinterval(SWITCH_SECONDS)
        descriptors.raise_limit()
        try:
            # What cannot be mended by waiting is told before anything listens.
            self._pause_seconds = next(self._lock_tries, None)
            self._check_ports()
            if self._with_http:
                self._run_under_daphne()
            else:
                asyncio.run(self._main())
        finally:
            self._lock.__exit__(None, None, None)
        if self._failure:
            raise self._failure

    def _check_ports(self) -> None:
        if self._config.server.enabled:
            check_free("server.grpc_addr", self._config.server.grpc_addr)
        if self._with_http:
            check_free("server.http_addr", self._config.server.http_addr)

    def _run_under_daphne(self) -> None:
        server = HttpServer(get_default_application(), address=self._config.server.http_addr, tls=self._tls)
        loop = daphne.server.twisted_loop
        loop.call_soon(lambda: loop.create_task(self._main_then(server.stop)))
        server.run()

    async def _main_then(self, stop: Callable[[], None]) -> None:
        try:
            await self._main()
        finally:
            stop()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        for number in signals.END:
            loop.add_signal_handler(number, self._begin_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        working = loop.create_task(self._work())
        stopping = loop.create_task(self._stop.wait())
        watching = loop.create_task(self._watch_lock())
        alive = loop.create_task(systemd.keep_alive())
        await asyncio.wait({working, stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            self._failure = watching.exception()
        systemd.notify(systemd.STOPPING)
        if stopping.done() and not working.done():
            api_entry.health.phase = "stopping"
            await api_entry.drain(DRAIN_SECONDS)
        for task in (working, stopping, watching, alive):
            task.cancel()
        try:
            await working
        except asyncio.CancelledError:
            logger.info("IMPD stopped")
        except Exception as error:
            cause = only_cause(error)
            self._failure = self._failure or as_start_error(cause)

    def _begin_stop(self) -> None:
        signals.begin_end()
        self._stop.set()

    async def _watch_lock(self) -> None:
        await self._prepared.wait()
        await self._lock.watch()

    def _reload_soon(self) -> None:
        if self._at_terminal and not os.isatty(0):
            # It was closed: whoever started the node there is gone.
            self._stop.set()
            return
        parts = Reloadable(health=api_entry.health, keys=api_entry.keys, tls=self._tls, lnd=self._lnd)
        keep_running(self._reload(parts))

    async def _work(self) -> None:
        config, health = self._config, api_entry.health
        client = assembly.make_client(config)
        lnd = self._lnd = LndStatus(client, on_wait=self._wait_for)
        health.watch_lnd(lnd)
        self._install_early_metrics(lnd)
        server = self._make_rpc_server()
        try:
            async with asyncio.TaskGroup() as group:
                if server:
                    await server.start()
                    group.create_task(server.follow_health())
                await self._prepare_database()
                await self._run_node(group, client, lnd, server)
        finally:
            health.phase = "stopping"
            if server:
                await server.stop()
            await client.close()

    async def _run_node(
        self, group: asyncio.TaskGroup, client: LndClient, lnd: LndStatus, server: RpcServer | None
    ) -> None:
        """Until cancelled."""
        config = self._config
        database = Database(epoch=self._epoch)
        doors = None
        try:
            api_entry.health.watch_database(database, config.database.sqlite_path)
            if config.database.may_be_others:
                # Nothing of it is shown before lnd has said whose node this is.
                await self._connect(lnd)
                own_pubkey = lnd.info.identity_pubkey
                await database.read(partial(refuse_others_database, config.database.sqlite_path, own_pubkey))
            async with asyncio.TaskGroup() as parts:
                doors = self._doors = await self._serve(parts, database, lnd, server)
                await self._connect(lnd)
                self._wait_for(STARTING)
                await self._start_engine(parts, doors, client, lnd, server)
        finally:
            api_entry.health.phase = "stopping"
            if server:
                await server.stop()
            if doors:
                await doors.audit.close()
            await database.close()

    def _install_early_metrics(self, lnd: LndStatus) -> None:
        keys = assembly.make_early_keys(self._config)
        scrape = assembly.make_early_scrape(
            self._config, keys=keys, health=api_entry.health, version=self._version, lnd=lnd
        )
        api_entry.install_early(EarlyMetrics(keys, assembly.make_guard(self._config), scrape))

    def _make_rpc_server(self) -> RpcServer | None:
        if not self._config.server.enabled:
            return None
        return RpcServer(
            self._config, tls=self._tls, health=api_entry.health, waiting_for=lambda: api_entry.waiting_for
        )

    async def _prepare_database(self) -> None:
        """Waits for it, migrates it, and takes it over."""
        while self._pause_seconds is not None:
            api_entry.health.wait_for_database(True)
            self._wait_for(WAITING_FOR_DATABASE)
            await asyncio.sleep(self._pause_seconds)
            self._pause_seconds = await asyncio.to_thread(next, self._lock_tries, None)
        api_entry.health.wait_for_database(False)
        self._wait_for(STARTING)
        await _to_its_end(self._before)
        self._epoch = await _to_its_end(self._lock.begin)
        self._prepared.set()

    async def _connect(self, lnd: LndStatus) -> None:
        config = self._config
        await lnd.connect(expected_pubkey=config.lnd.pub_key, calls=assembly.lnd_calls(config))

    def _wait_for(self, text: str) -> None:
        """Tells callers and systemd what keeps the node from its work."""
        api_entry.waiting_for = text
        if self._doors:
            self._doors.waiting_for = text
        systemd.status(text)

    async def _serve(
        self, group: asyncio.TaskGroup, database: Database, lnd: LndStatus, server: RpcServer | None
    ) -> Doors:
        """Everything that needs no lnd: history, streams, metrics, health."""
        config, health = self._config, api_entry.health
        hub = assembly.make_hub(config, database, beside_engine=True)
        await hub.start()
        doors = await assembly.make_doors(
            config, database=database, hub=hub, beside_engine=True, version=self._version, lnd=lnd
        )
        scrape = assembly.make_scrape(config, doors, health, lnd)
        for part in (database.watch_epoch(), hub.run(), doors.keys.run(), doors.audit.run()):
            group.create_task(part)
        if config.redis_url:
            health.watch_redis(hub)
        if server:
            server.install(doors, scrape)
        api_entry.install(ApiApplication(doors), doors, scrape)
        # Where lnd is away this is as much as there is, for however long.
        systemd.notify(systemd.READY)
        return doors

    async def _start_engine(
        self,
        group: asyncio.TaskGroup,
        doors: Doors,
        client: LndClient,
        lnd: LndStatus,
        server: RpcServer | None,
    ) -> None:
        engine = assembly.make_engine(
            self._config,
            database=doors.database,
            client=client,
            lnd=lnd,
            hub=doors.hub,
            version=self._version,
        )
        await _when_lnd_answers(engine.begin)
        group.create_task(engine.run())
        doors.engine = engine
        api_entry.health.watch_payments(lambda: len(engine.dead_payments.suspected))
        api_entry.health.phase = None
        if server:
            await server.set_registry(engine.registry)
        systemd.status("IMPD started!")
        self._on_started(lnd.info.identity_pubkey)
        logger.info("IMPD started!", extra=self._facts(lnd))
        # What was made at start stays: the collector need not walk through it again and again.
        gc.freeze()

    def _facts(self, lnd: LndStatus) -> dict[str, str]:
        server = self._config.server
        facts = {"pubkey": lnd.info.identity_pubkey, "network": lnd.network, "version": self._version}
        if server.enabled:
            facts["grpc"] = str(server.grpc_addr)
        if self._with_http:
            facts["http"] = f"{server.scheme}://{server.http_addr}"
        return facts


async def _to_its_end(work: Callable[[], Result]) -> Result:
    """In a thread, whose end is waited for even when the node stops meanwhile: the database is this process's so long."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def keep_running(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)


def refuse_others_database(file: Path, own_pubkey: str) -> None:
    """StartError when a database, which this configuration does not name, was used by other nodes and never by this."""
    others = list(InvoiceMark.objects.order_by("pubkey").values_list("pubkey", flat=True))
    if others and own_pubkey not in others:
        raise StartError(
            f"database.url: {file} is the database of the node {others[0]}, and this one is {own_pubkey}; name a file of "
            "this node's own, such as sqlite:///mynode.sqlite3"
        )


def only_cause(error: BaseException) -> BaseException:
    """What is inside of groups of one. Whatever else fails, too, when the node's epoch is over is no cause."""
    if isinstance(error, BaseExceptionGroup) and error.subgroup(OvertakenError):
        return OvertakenError()
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def as_start_error(error: BaseException) -> BaseException:
    """Of what only the operator can mend, or a new start; the error itself if it is a fault of the node."""
    if isinstance(error, OperationalError):
        return StartError(f"database.url: the database cannot be used: {' '.join(str(error).split())}")
    return StartError(str(error)) if isinstance(error, (LndError, OvertakenError)) else error


async def _when_lnd_answers(step: Callable[[], Awaitable[None]]) -> None:
    """lnd may go away again between two steps of the start."""
    while True:
        try:
            return await step()
        except LndError as error:
            if not error.trouble.passes:
                raise
            logger.warning("%s; waiting for it", error)
            await asyncio.sleep(AWAY_SECONDS)


def check_free(key: str, address) -> None:
    """StartError when nobody could listen on this address, with what to do."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise StartError(
                f"{key}: {address} cannot be listened on ({error.strerror}): end what uses it "
                f"(ss -ltnp 'sport = :{address.port}' shows it) or set another address in {key}"
            ) from None


async def install_api(config, *, version: str, reload: Reload) -> None:
    """The API of a process beside runimpd: it reads the database and forwards all else. StartError when the database is of a
    newer version.
    """
    database = Database()
    hub = assembly.make_hub(config, database, beside_engine=False)
    try:
        await database.read(lambda: refuse_newer(schema.read()))
        await hub.start()
        doors = await assembly.make_doors(
            config, database=database, hub=hub, beside_engine=False, version=version
        )
    except BaseException:
        # It is tried again: the threads of this try must not stay.
        await database.close()
        raise
    for part in (hub.run(), doors.keys.run(), doors.audit.run()):
        keep_running(part)
    health = api_entry.health
    parts = Reloadable(health=health, keys=doors.keys, tls=assembly.make_tls(config))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: keep_running(reload(parts)))
    health.watch_database(database, config.database.sqlite_path)
    if config.server.enabled:
        health.watch_runimpd(RunimpdHealth(required(doors.forwarder)).ask)
    if config.redis_url:
        health.watch_redis(hub)
    health.phase = None
    api_entry.install(ApiApplication(doors), doors, assembly.make_scrape(config, doors, health))
