"""Starts and stops the parts of the node in their order: the runimpd process, and the API of a daphne beside it."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import daphne.server
import grpc
from channels.routing import get_default_application

from lightning.client import LndClient, LndError
from messaging.database import Database
from messaging.epoch import OvertakenError
from messaging.models import InvoiceMark
from messaging.required import required
from nodeapi import assembly, descriptors, rpc, schema, systemd
from nodeapi.auth import Keys
from nodeapi.doors import Doors
from nodeapi.entry import api_entry
from nodeapi.errors import StartError
from nodeapi.first_start import refuse_newer
from nodeapi.http_server import HttpServer
from nodeapi.lnd_status import LndStatus
from nodeapi.locks import lock_of
from nodeapi.monitoring.rpc_health import HealthService, RunimpdHealth
from nodeapi.tls import PairFiles, grpc_server_credentials
from nodeapi.web import ApiApplication

logger = logging.getLogger("nodeapi.runtime")

# What SIGHUP does (impervious_site/reload.py).
Reload = Callable[[Keys | None, PairFiles | None], Coroutine[Any, Any, None]]

# An event loop holds its tasks only weakly.
_background: set[asyncio.Task] = set()

GRACE_SECONDS = 1.0
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
        self._epoch: int | None = None
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    def run(self) -> None:
        # The database threads hand over to the event loop many times a second: the default of 5 ms would be felt.
        sys.setswitchinterval(SWITCH_SECONDS)
        with self._lock:
            descriptors.raise_limit()
            self._check_ports()
            self._before()
            self._epoch = self._lock.begin()
            if self._with_http:
                self._run_under_daphne()
            else:
                asyncio.run(self._main())
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
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop_at_signal)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        working = loop.create_task(self._work())
        stopping = loop.create_task(self._stop.wait())
        watching = loop.create_task(self._lock.watch())
        alive = loop.create_task(systemd.keep_alive())
        await asyncio.wait({working, stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            self._failure = watching.exception()
        systemd.notify(systemd.STOPPING)
        if stopping.done() and not working.done():
            api_entry.health.phase = "stopping"
            draining = loop.create_task(api_entry.drain(DRAIN_SECONDS))
            hurrying = loop.create_task(self._hurry.wait())
            await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            hurrying.cancel()
        for task in (working, stopping, watching, alive):
            task.cancel()
        try:
            await working
        except asyncio.CancelledError:
            logger.info("IMPD stopped")
        except Exception as error:
            cause = only_cause(error)
            known = isinstance(cause, (LndError, OvertakenError))
            self._failure = self._failure or (StartError(str(cause)) if known else cause)

    def _stop_at_signal(self) -> None:
        """A second signal waits for nobody's answer."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _reload_soon(self) -> None:
        if self._at_terminal and not os.isatty(0):
            # It was closed: whoever started the node there is gone.
            self._stop.set()
            return
        keep_running(self._reload(api_entry.keys, self._tls))

    async def _work(self) -> None:
        config = self._config
        database = Database(epoch=self._epoch)
        client = assembly.make_client(config)
        lnd = LndStatus(client)
        health = api_entry.health
        health.watch_database(database, config.database.sqlite_path)
        health.watch_lnd(lnd)
        served = None
        try:
            if config.database.may_be_others:
                # Nothing of it is shown before lnd has said whose node this is.
                self._wait_for(f"the node waits for lnd at {client.address}")
                await self._connect(lnd)
                own_pubkey = lnd.info.identity_pubkey
                await database.read(partial(refuse_others_database, config.database.sqlite_path, own_pubkey))
            async with asyncio.TaskGroup() as group:
                served = await self._serve(group, database, lnd)
                self._wait_for(f"the node waits for lnd at {client.address}", served.doors)
                await self._connect(lnd)
                self._wait_for("the node is starting", served.doors)
                await self._start_engine(group, served, client, lnd)
        finally:
            health.phase = "stopping"
            if served:
                await served.stop_listening()
            await client.close()
            if served:
                await served.doors.audit.close()
            await database.close()

    async def _connect(self, lnd: LndStatus) -> None:
        config = self._config
        await lnd.connect(expected_pubkey=config.lnd.pub_key, calls=assembly.lnd_calls(config))

    def _wait_for(self, text: str, doors: Doors | None = None) -> None:
        """Tells callers and systemd what keeps the node from its work."""
        api_entry.waiting_for = text
        if doors:
            doors.waiting_for = text
        systemd.status(text)

    async def _serve(self, group: asyncio.TaskGroup, database: Database, lnd: LndStatus) -> "Served":
        """Everything that needs no lnd: history, streams, metrics, health."""
        config, health = self._config, api_entry.health
        hub = assembly.make_hub(config, database, beside_engine=True)
        await hub.start()
        doors = await assembly.make_doors(
            config, database=database, hub=hub, beside_engine=True, version=self._version
        )
        scrape = assembly.make_scrape(config, doors, health, lnd)
        served = Served(doors, HealthService(health, rpc.service_names()))
        for part in (database.watch_epoch(), hub.run(), doors.keys.run(), doors.audit.run()):
            group.create_task(part)
        if config.redis_url:
            health.watch_redis(hub)
        if config.server.enabled:
            served.server = await rpc.make_server(
                doors,
                health_service=served.health,
                scrape=scrape,
                max_message_bytes=assembly.max_body_bytes(config),
                max_connections=assembly.max_grpc_connections(config),
            )
            self._listen(served.server)
            await served.server.start()
            await served.health.look()
            group.create_task(served.health.follow())
        api_entry.install(ApiApplication(doors), doors, scrape)
        # Where lnd is away this is as much as there is, for however long.
        systemd.notify(systemd.READY)
        return served

    async def _start_engine(
        self, group: asyncio.TaskGroup, served: "Served", client: LndClient, lnd: LndStatus
    ) -> None:
        doors = served.doors
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
        doors.engine, served.health.registry = engine, engine.registry
        api_entry.health.watch_payments(lambda: len(engine.dead_payments.suspected))
        api_entry.health.phase = None
        await served.health.look()
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

    def _listen(self, server: grpc.aio.Server) -> None:
        address = str(self._config.server.grpc_addr)
        if self._tls:
            server.add_secure_port(address, grpc_server_credentials(self._tls))
        else:
            server.add_insecure_port(address)


@dataclass
class Served:
    """What serves without lnd, too."""

    doors: Doors
    health: HealthService
    server: grpc.aio.Server | None = None

    async def stop_listening(self) -> None:
        if self.server:
            await self.health.enter_graceful_shutdown()
            await self.server.stop(GRACE_SECONDS)


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
    tls = assembly.make_tls(config)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, lambda: keep_running(reload(doors.keys, tls))
    )
    health = api_entry.health
    health.watch_database(database, config.database.sqlite_path)
    if config.server.enabled:
        health.watch_runimpd(RunimpdHealth(required(doors.forwarder)).ask)
    if config.redis_url:
        health.watch_redis(hub)
    health.phase = None
    api_entry.install(ApiApplication(doors), doors, assembly.make_scrape(config, doors, health))
