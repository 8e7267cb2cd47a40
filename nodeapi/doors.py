"""What all doors share: who may pass, and where a call is carried out, here or in the runimpd process."""

import asyncio
import hashlib
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from django.db import DataError, IntegrityError, ProgrammingError
from django.db import Error as DatabaseError
from google.protobuf.message import Message

from messaging import metrics
from messaging.budget import OverBudget
from messaging.database import Database
from messaging.idempotency import Claim, KeyReused
from messaging.notes import noter
from messaging.required import required
from messaging.sparse_log import SparseLog
from nodeapi.audit import AuditLog
from nodeapi.auth import Caller, Keys, Visit, WebGuard
from nodeapi.calling import Call
from nodeapi.engine import Engine
from nodeapi.errors import ApiError, invalid
from nodeapi.forward import Forwarder
from nodeapi.operations import Operation
from nodeapi.stream import Hub

logger = logging.getLogger("nodeapi.doors")

READ = "read"
IDEMPOTENCY_KEY = "idempotency-key"
MAX_KEY_CHARACTERS = 255
STOPPING = "the node is stopping: try again, here or at another process of it"
CUT_OFF = "the node has stopped before this call was answered; what it has stored goes on. Try again, with the same Idempotency-Key"
FLUSH_SECONDS = 0.2
DATABASE_ERROR_SECONDS = 1.0
# Gives the request of a call once it is known who calls; over gRPC it arrives only then. Raises ApiError.
Read = Callable[[], Message | Awaitable[Message]]


def _database_errors() -> SparseLog:
    text = "calls are refused, because the database cannot be used"
    return SparseLog(logger, logging.ERROR, text, ("error",), pause_seconds=DATABASE_ERROR_SECONDS)


@dataclass(kw_only=True)
class Doors:
    """`engine` is there in the runimpd process once lnd has answered (`waiting_for` says so until then), `forwarder` in every
    other process. `as_text`: JSON carries messages as text. `services` are those of the configuration, `max_body_bytes` what
    a request's body may have once it is decompressed.
    """

    database: Database
    hub: Hub
    keys: Keys
    audit: AuditLog
    guard: WebGuard
    version: str
    engine: Engine | None = None
    forwarder: Forwarder | None = None
    as_text: bool = False
    services: frozenset[str] = frozenset()
    max_body_bytes: int = 4 * 2**20
    waiting_for: str = "the node is starting"
    # While the database is away each call fails, and its log may be on the same disk.
    _database_errors: SparseLog = field(default_factory=_database_errors)
    _stopping: bool = False
    _cut_off: bool = False
    _open_calls: set[asyncio.Task[Any]] = field(default_factory=set)
    _all_answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self, seconds: float) -> None:
        """Answers what has begun, but waits for so long at most, takes no further calls, and ends the streams."""
        if self._stopping:
            return
        self._stopping = True
        try:
            async with asyncio.timeout(seconds):
                while self._open_calls:
                    self._all_answered.clear()
                    await self._all_answered.wait()
        except TimeoutError:
            logger.warning("calls that were not answered in time", extra={"calls": len(self._open_calls)})
        finally:
            # Also where a second signal has ended the wait.
            self._cut_off = True
            for task in self._open_calls:
                task.cancel()
        self.keys.end_all_streams(ApiError(grpc.StatusCode.UNAVAILABLE, STOPPING))
        # What was written last leaves.
        await asyncio.sleep(FLUSH_SECONDS)

    async def call(self, operation: Operation, read: Read, visit: Visit) -> Message:
        """Carries out an operation for whoever comes so. Raises ApiError and nothing else."""
        if self._stopping:
            raise ApiError(grpc.StatusCode.UNAVAILABLE, STOPPING)
        task = required(asyncio.current_task())
        self._open_calls.add(task)
        try:
            return await self._call(operation, read, visit)
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
            task.uncancel()
            raise ApiError(grpc.StatusCode.UNAVAILABLE, CUT_OFF) from None
        finally:
            self._open_calls.discard(task)
            self._all_answered.set()

    async def _call(self, operation: Operation, read: Read, visit: Visit) -> Message:
        caller = self.authenticate(visit, operation.rpc_path)
        if self._is_forwarded(operation, caller):
            return await required(self.forwarder).call(operation, await _given(read), visit)
        if self.engine is None and not operation.reads_only:
            raise ApiError(grpc.StatusCode.UNAVAILABLE, self.waiting_for)
        if operation.scope == READ:
            self.require(caller, READ, visit, operation.rpc_path)
            return await self._carry_out(operation, read, visit, caller)
        call = Call(caller=caller, operation=operation.rpc_path.strip("/"), address=visit.address)
        setting = noter.set(call)
        try:
            self.keys.require(caller, operation.scope)
            reply = await self._carry_out(operation, read, visit, caller, call)
        except ApiError as error:
            self.audit.refused(call, error)
            raise
        except asyncio.CancelledError:
            self.audit.left(call)
            raise
        finally:
            noter.reset(setting)
        self.audit.done(call, reply, once=operation.once)
        return reply

    def authenticate(self, visit: Visit, what: str) -> Caller:
        """ApiError UNAUTHENTICATED. `what` is asked for, as the log is to name it."""
        try:
            return self.keys.authenticate(visit)
        except ApiError as error:
            self.audit.refused_at_the_door(error, operation=what.strip("/"), address=visit.address)
            raise

    def require(self, caller: Caller, scope: str, visit: Visit, what: str) -> None:
        """ApiError PERMISSION_DENIED, RESOURCE_EXHAUSTED."""
        try:
            self.keys.require(caller, scope)
        except ApiError as error:
            name, address = caller.name, visit.address
            self.audit.refused_at_the_door(error, operation=what.strip("/"), address=address, name=name)
            raise

    def admit(self, visit: Visit, scope: str, what: str) -> Caller:
        """For what is no operation of the table."""
        refuse_key(visit, what.rpartition("/")[2])
        caller = self.authenticate(visit, what)
        self.require(caller, scope, visit, what)
        return caller

    def _is_forwarded(self, operation: Operation, caller: Caller) -> bool:
        """Beside runimpd: all but pure reading; that too where its calls are counted, for which one has to count."""
        return self.forwarder is not None and (
            not operation.reads_only or caller.calls_per_minute is not None
        )

    def _claim(
        self, caller: Caller, operation: Operation, fields: Mapping[str, Any], visit: Visit
    ) -> Claim | None:
        """None without a key. A default that is written out makes no other request."""
        if IDEMPOTENCY_KEY not in visit.metadata:
            return None
        engine = self.engine
        meant = {
            name: default(engine)
            for name, default in operation.defaults.items()
            if engine and fields[name] is None
        }
        return claim_of(caller, operation, {**fields, **meant}, visit.metadata)

    async def _carry_out(
        self,
        operation: Operation,
        read: Read,
        visit: Visit,
        caller: Caller,
        call: Call | None = None,
    ) -> Message:
        try:
            if not operation.once:
                refuse_key(visit, operation.method)
            request = await _given(read)
            fields = operation.request.check(request)
            if call:
                call.asks(fields)
            if operation.once:
                fields["claim"] = self._claim(caller, operation, fields, visit)
            # For nobody but the budget.
            max_cost_sat = fields.pop("max_cost_sat", None)
            if call:
                call.max_cost_sat = max_cost_sat
            return operation.reply.data_to_message(await operation.function(self, **fields))
        except ApiError:
            raise
        except KeyReused:
            raise ApiError(
                grpc.StatusCode.ALREADY_EXISTS, "Idempotency-Key: was given before, with another request"
            ) from None
        except OverBudget as error:
            if caller.name:
                metrics.KEY_REFUSALS.labels(caller.name, metrics.BUDGET).inc()
            raise ApiError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), retry_after_seconds=error.seconds
            ) from None
        except (IntegrityError, DataError, ProgrammingError):
            # A fault of the node's own: to try again would not help.
            logger.exception("%s failed in the database", operation.rpc_path)
            raise ApiError(grpc.StatusCode.INTERNAL, "internal error; the node's log tells more") from None
        except DatabaseError as error:
            self._database_errors.note({(" ".join(str(error).split())[:200],): 1})
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE,
                "the database cannot do this now, it may be away or its disk full (the node's log tells); try again",
            ) from None
        except Exception:
            logger.exception("%s failed", operation.rpc_path)
            raise ApiError(grpc.StatusCode.INTERNAL, "internal error; the node's log tells more") from None


async def _given(read: Read) -> Message:
    request = read()
    return await request if inspect.isawaitable(request) else request


def refuse_key(visit: Visit, what: str) -> None:
    """ApiError when a call that cannot keep to an Idempotency-Key comes with one: who gives one relies on it."""
    if IDEMPOTENCY_KEY in visit.metadata:
        raise invalid("Idempotency-Key", f"is not for {what}, which would be done each time: leave it out")


def claim_of(
    caller: Caller, operation: Operation, fields: Mapping[str, Any], metadata: Mapping[str, str]
) -> Claim | None:
    """What the caller's Idempotency-Key stands for, with the checked fields of the request; None without one."""
    given = metadata.get(IDEMPOTENCY_KEY)
    if given is None:
        return None
    key = _text_of(given)
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or "\0" in key:
        raise invalid("Idempotency-Key", f"must have 1 to {MAX_KEY_CHARACTERS} characters, none of them NUL")
    asked = json.dumps([operation.rpc_path, fields], sort_keys=True, default=_as_json)
    return Claim(caller=caller.name, key=key, request_hash=hashlib.sha256(asked.encode()).digest())


def _text_of(header: str) -> str:
    """A header's bytes, which come as Latin-1, are UTF-8, unless they cannot be."""
    try:
        return header.encode("latin-1").decode()
    except ValueError:
        return header


def _as_json(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
