"""The node itself: whether it runs, and whether its ports are its own."""

import fcntl
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import grpc
from django.utils.module_loading import import_string

from messaging.required import required
from nodeapi.cli.client import NodeClient, NodeError, ask_http
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong
from nodeapi.node_states import RUNNING
from protos import node_pb2

ANSWER_SECONDS = 15
_KEY_TROUBLES = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def check(patient: Patient) -> Iterator[Finding]:
    if patient.door is None:
        yield note(patient.no_door)
        return
    server = patient.config.server
    try:
        with NodeClient(patient.door, call_seconds=ANSWER_SECONDS) as client:
            info = client.info()
    except NodeError as error:
        if error.code in _KEY_TROUBLES:
            patient.running = True
            yield note(
                f"a node answers at {server.grpc_addr}, but tells nothing: {error}",
                "give its key by --key-file",
            )
        elif error.waits:
            patient.running = True
            yield note(f"the node answers at {server.grpc_addr}, and has not started yet: {error}")
        else:
            yield from _no_answer(patient, error)
        return
    patient.running = True
    yield from _runs(patient, info)
    yield _http(patient)


def _runs(patient: Patient, info: node_pb2.GetInfoResponse) -> Iterator[Finding]:
    address, lnd = patient.config.server.grpc_addr, patient.lnd_info
    # Before lnd has answered it, a node does not know its key.
    if lnd is not None and info.pubkey not in ("", lnd.identity_pubkey):
        yield wrong(
            f"the node that answers at {address} is another one: {info.pubkey}",
            "end it, or set other addresses in server.grpc_addr and server.http_addr",
        )
        return
    if info.state in ("", RUNNING):
        yield ok(f"the node runs, and answers at {address}")
    else:
        yield note(f"the node answers at {address}, and has not started yet: {'; '.join(info.warnings)}")
    if info.version != patient.version:
        yield note(f"it is of version {info.version}, and {patient.version} is installed", "start it again")
    if lnd is not None and not info.lnd_reachable and info.state == RUNNING:
        yield note("it does not reach lnd, which answers here", "wait a minute; else start it again")
    if info.dead_payments:
        yield note(
            f"lnd holds dead payments: it calls {info.dead_payments} of this node's under way, but no channel holds them",
            "nothing: the node gives each up once it is safe (docs/operating.md); keep the channels' peers connected",
        )


def _http(patient: Patient) -> Finding:
    address = patient.config.server.http_addr
    told = ask_http(required(patient.door))
    if told is None:
        return wrong(
            f"HTTP is not answered at {address}", "after --no-http, start a daphne there (docs/operating.md)"
        )
    if not _is_ours(told[1]):
        return _taken("server.http_addr", address)
    return ok(f"HTTP is answered at {address}")


def _is_ours(said: object) -> TypeGuard[dict[str, Any]]:
    """Whether an answer to GET /v1/node is a node's, be it a refusal."""
    return isinstance(said, dict) and ("pubkey" in said or {"code", "message", "details"} <= said.keys())


def _no_answer(patient: Patient, error: NodeError) -> Iterator[Finding]:
    server, holder = patient.config.server, _lock_holder(patient.config.database)
    told = ask_http(required(patient.door))
    beside = told is not None and _is_ours(told[1])
    if told is not None and told[0] == 503 and _is_ours(told[1]) and holder:
        patient.running = True
        yield note(f"a node runs, but {told[1]['message']}")
        return
    if holder:
        patient.running = True
        yield note(
            f"a node (process {holder}) holds the database, but does not answer at {server.grpc_addr}",
            "its log says what it waits for",
        )
    else:
        yield note(
            "the node does not run",
            f"start it: ./impervious --config {shlex.quote(str(patient.config.path))}",
        )
    addresses = {"server.grpc_addr": server.grpc_addr, "server.http_addr": server.http_addr}
    for key, address in addresses.items():
        if key == "server.http_addr" and beside:
            yield ok(f"{key}: a daphne of this node answers at {address}")
        elif problem := _bind_problem(address):
            yield (
                _taken(key, address)
                if problem == "taken"
                else wrong(
                    f"{key}: {address} cannot be listened on: {problem}", "name an address of this machine"
                )
            )
        else:
            yield ok(f"{key}: {address} is free")


def _bind_problem(address) -> str:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            return ""
        except OSError as error:
            return "taken" if error.errno == 98 else error.strerror or "refused"


def _taken(key: str, address) -> Finding:
    return wrong(
        f"{key}: {address} is taken by {listener(address.port)}",
        f"end it (ss -ltnp 'sport = :{address.port}' shows it), or set another address in {key}",
    )


def listener(port: int) -> str:
    """Who listens on a TCP port of this machine, as far as this user may know."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        try:
            if any(os.readlink(link) in inodes for link in (process / "fd").iterdir()):
                return f"another program ({(process / 'comm').read_text().strip()}, process {process.name})"
        except OSError:
            continue
    return "another program"


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen there: the fields of /proc/net/tcp are described in proc(5)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (line.split() for line in lines):
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _lock_holder(database) -> str:
    """The process that has locked the database as its node; empty if there is none."""
    if database.postgres:
        # By its name, because it imports psycopg, which a node on SQLite does without.
        return import_string("nodeapi.server_lock.holder")(database.postgres.get_secret_value())
    path = database.sqlite_path.with_name(database.sqlite_path.name + ".lock")
    try:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read(20).decode(errors="replace").strip() or "unknown"
    except OSError:
        pass
    return ""
