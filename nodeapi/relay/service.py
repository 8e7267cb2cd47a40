"""The relay's state and life. It runs from StartSocket until StopSocket, or until it has been idle for as long as it
was told; a restart of the node, by kill -9 too, brings it back on the same ports.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from django.db import Error as DatabaseError
from django.utils import timezone

from messaging import events
from messaging.database import Database, insert_new
from messaging.models import Event
from messaging.required import required
from messaging.socket_offer import SocketOffer
from nodeapi.models import RelayRun
from nodeapi.relay.ports import NoPorts, Pair, bind_pair
from nodeapi.relay.process import PumpProcess, PumpState

logger = logging.getLogger("nodeapi.relay.service")

Result = TypeVar("Result")
# The service type of what the stream tells of the relay itself: a name that clients of 2021 pass over.
TOLD_AS = "relay"
SAMPLE_SECONDS = 5.0
DATABASE_RETRY_SECONDS = 2.0
# The pump of a node that was killed needs a moment to notice.
PORTS_RETRY_SECONDS, PORTS_TRIES = 0.2, 15


@dataclass(frozen=True, kw_only=True)
class RelayOptions:
    """`server_ip` is what others are told. Ports out of `port_range` (None: any free ones). `pin`: the first address
    that speaks on a port keeps it; else the newest has it. Limits, or None: bytes a second of both directions together,
    and seconds without a datagram after which the relay ends.
    """

    server_ip: str
    port_range: tuple[int, int] | None
    pin: bool
    max_bytes_per_second: int | None
    idle_seconds: int | None

    @property
    def of_pump(self) -> dict[str, Any]:
        return {
            "pin": self.pin,
            "max_bytes_per_second": self.max_bytes_per_second,
            "idle_seconds": self.idle_seconds,
        }


class Relay:
    """One relay at most. Calls are answered after what they changed is committed; they raise django.db.Error."""

    def __init__(
        self, *, database: Database, options: RelayOptions, active: bool, published: events.Published
    ):
        self._database = database
        self._options = options
        self._active = active
        self._published = published
        self._lock = asyncio.Lock()
        self._told = asyncio.Event()
        # An event loop holds its tasks only weakly.
        self._steps: set[asyncio.Task] = set()
        self._restored = False
        self._pump: PumpProcess | None = None
        self._run_id: int | None = None
        self._stored = PumpState()

    @property
    def observed(self) -> PumpState | None:
        """Its counters now; None while it does not run."""
        return self._pump.state if self._pump else None

    async def start(self) -> SocketOffer:
        """Where the relay is, which runs from now on if it did not. Raises NoPorts."""
        return await self._whole(self._start())

    async def stop(self) -> None:
        """Its ports are free afterwards. Without a running relay nothing is done."""
        await self._whole(self._stop())

    async def running(self) -> SocketOffer | None:
        return await self._whole(self._running())

    async def _whole(self, step: Coroutine[Any, Any, Result]) -> Result:
        """A caller who goes away does not break it off between the sockets and the database."""
        task = asyncio.create_task(step)
        self._steps.add(task)
        task.add_done_callback(self._steps.discard)
        return await asyncio.shield(task)

    async def _start(self) -> SocketOffer:
        async with self._lock:
            await self._settle()
            if self._pump is None:
                await self._begin()
            return self._offer()

    async def _stop(self) -> None:
        async with self._lock:
            await self._settle()
            if self._pump:
                await self._end("stopped")

    async def _running(self) -> SocketOffer | None:
        async with self._lock:
            await self._settle()
            return self._offer() if self._pump else None

    async def run(self) -> None:
        """Brings back the relay of the run before, and keeps its counters, until cancelled."""
        try:
            while True:
                try:
                    async with self._lock:
                        await self._settle()
                        await self._sample()
                except DatabaseError as error:
                    logger.error("the relay's state: %s; trying again", error)
                    await asyncio.sleep(DATABASE_RETRY_SECONDS)
                except Exception:
                    logger.exception("the relay; trying again")
                    await asyncio.sleep(DATABASE_RETRY_SECONDS)
                else:
                    await self._news()
        finally:
            await self._leave()

    async def _news(self) -> None:
        """Until there is something to be stored: soon when an address is new or the relay has ended, else by and by."""
        try:
            async with asyncio.timeout(SAMPLE_SECONDS):
                await self._told.wait()
        except TimeoutError:
            pass
        self._told.clear()

    def _hear(self) -> None:
        if self._pump is None:
            return
        if self._pump.ended_idle or self._pump.state.peers != self._stored.peers:
            self._told.set()

    async def _settle(self) -> None:
        """What happened by itself is taken note of: a restart of the node, the end of an idle relay."""
        if not self._restored:
            await self._restore()
            self._restored = True
        if self._pump and self._pump.ended_idle:
            await self._end("idle")

    def _offer(self) -> SocketOffer:
        port1, port2 = required(self._pump).ports
        return SocketOffer(ip=self._options.server_ip, port1=port1, port2=port2)

    async def _begin(self) -> None:
        sockets = bind_pair(self._options.server_ip, port_range=self._options.port_range)
        try:
            port1, port2 = ports_of(sockets)
            run_id = await self._database.write(partial(_insert, port1, port2))
        except BaseException:
            _close(sockets)
            raise
        self._pass_on(sockets, run_id, PumpState())
        logger.info("the relay listens", extra={"port1": port1, "port2": port2})

    def _pass_on(self, sockets: Pair, run_id: int, state: PumpState) -> None:
        pump = PumpProcess(sockets, settings=self._options.of_pump, state=state, on_told=self._hear)
        self._pump, self._run_id, self._stored = pump, run_id, state
        pump.start()

    async def _end(self, cause: str) -> None:
        told = [self._event({"state": "ended", "cause": cause})] if cause == "idle" else []
        pump, run_id = required(self._pump), required(self._run_id)
        await self._database.write(partial(_finish, run_id, pump.state, cause, told, self._published))
        self._pump = None
        await pump.end()
        logger.info("the relay has ended: %s", cause)
        await self._keep_last(run_id, pump.state)

    async def _sample(self) -> None:
        if self._pump and self._pump.state != self._stored:
            state = self._pump.state
            await self._database.write(partial(_keep, required(self._run_id), state))
            self._stored = state

    async def _leave(self) -> None:
        """The node ends, the relay does not: it is there again with the node."""
        if self._pump is None:
            return
        pump, self._pump = self._pump, None
        await pump.end()
        await self._keep_last(required(self._run_id), pump.state)

    async def _keep_last(self, run_id: int, state: PumpState) -> None:
        try:
            await self._database.write(partial(_keep, run_id, state))
        except DatabaseError as error:
            logger.warning("the relay's last counters could not be stored: %s", error)

    async def _restore(self) -> None:
        run = await self._database.read(_running_now)
        if run is None:
            return
        if not self._active:
            cause = "the service is off"
            await self._database.write(partial(_finish, run.pk, state_of(run), cause, [], self._published))
            logger.warning(
                "the relay of the run before is not started: the service socket is off on this node"
            )
            return
        state = state_of(run)
        sockets = await self._bind_again(run)
        if sockets is None:
            # Addresses have spoken on the ports of before, not on these.
            state = PumpState(
                datagrams=state.datagrams, passed_bytes=state.passed_bytes, dropped=state.dropped
            )
            sockets = await self._move(run, state)
        if sockets:
            self._pass_on(sockets, run.pk, state)
            port1, port2 = ports_of(sockets)
            logger.info("the relay listens again", extra={"port1": port1, "port2": port2})

    async def _bind_again(self, run: RelayRun) -> Pair | None:
        wanted = (run.port1, run.port2)
        low, high = self._options.port_range or (1, 65_535)
        if not all(low <= port <= high for port in wanted):
            return None
        for _ in range(PORTS_TRIES):
            try:
                return bind_pair(self._options.server_ip, port_range=None, wanted=wanted)
            except NoPorts as error:
                trouble = error
                await asyncio.sleep(PORTS_RETRY_SECONDS)
        logger.warning("the relay: %s; taking others", trouble)
        return None

    async def _move(self, run: RelayRun, state: PumpState) -> Pair | None:
        """New ports for a relay whose ports are gone, said in the log and on the stream; without any, its end."""
        try:
            sockets = bind_pair(self._options.server_ip, port_range=self._options.port_range)
        except NoPorts as error:
            told = [self._event({"state": "ended", "cause": str(error)})]
            await self._database.write(partial(_finish, run.pk, state, str(error), told, self._published))
            logger.error("the relay has ended: %s", error)
            return None
        try:
            port1, port2 = ports_of(sockets)
            offer = SocketOffer(ip=self._options.server_ip, port1=port1, port2=port2)
            told = [self._event({"state": "moved", **offer.fields()})]
            await self._database.write(partial(_change_ports, run.pk, offer, told, self._published))
        except BaseException:
            _close(sockets)
            raise
        logger.warning(
            "the relay has other ports now",
            extra={"port1": port1, "port2": port2, "before1": run.port1, "before2": run.port2},
        )
        return sockets

    def _event(self, data: dict[str, str]) -> Event:
        body = json.dumps(data, separators=(",", ":")).encode()
        return Event(message_id=uuid4(), data=body, service_type=TOLD_AS, amount_sat=0)


def ports_of(sockets: Pair) -> tuple[int, int]:
    first, second = (one.getsockname()[1] for one in sockets)
    return first, second


def state_of(run: RelayRun) -> PumpState:
    return PumpState(
        peers=[run.peer1, run.peer2],
        datagrams=[run.datagrams1, run.datagrams2],
        passed_bytes=[run.bytes1, run.bytes2],
        dropped=run.dropped,
    )


def _close(sockets: Pair) -> None:
    for one in sockets:
        one.close()


def _running_now() -> RelayRun | None:
    return RelayRun.objects.filter(running=True).first()


def _insert(port1: int, port2: int) -> int:
    # None is, unless a commit was reported as failed that was not.
    RelayRun.objects.filter(running=True).update(running=False, ended_at=timezone.now(), end_cause="replaced")
    run = RelayRun(port1=port1, port2=port2)
    insert_new(RelayRun, [run])
    return run.pk


def _keep(run_id: int, state: PumpState) -> None:
    (peer1, peer2), (datagrams1, datagrams2), (bytes1, bytes2) = (
        state.peers,
        state.datagrams,
        state.passed_bytes,
    )
    RelayRun.objects.filter(pk=run_id).update(
        peer1=peer1,
        peer2=peer2,
        datagrams1=datagrams1,
        datagrams2=datagrams2,
        bytes1=bytes1,
        bytes2=bytes2,
        dropped=state.dropped,
        sampled_at=timezone.now(),
    )


def _change_ports(run_id: int, offer: SocketOffer, told: list[Event], published: events.Published) -> None:
    RelayRun.objects.filter(pk=run_id).update(port1=offer.port1, port2=offer.port2, peer1=None, peer2=None)
    _tell(told, published)


def _finish(
    run_id: int, state: PumpState, cause: str, told: list[Event], published: events.Published
) -> None:
    _keep(run_id, state)
    RelayRun.objects.filter(pk=run_id).update(running=False, ended_at=timezone.now(), end_cause=cause[:100])
    _tell(told, published)


def _tell(told: list[Event], published: events.Published) -> None:
    for event in told:
        # A job may run twice.
        event.pk = None
    events.append(told, published=published)
