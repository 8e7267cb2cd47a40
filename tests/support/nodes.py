"""Whole nodes for tests: `manage.py runimpd` as a process of its own, on an lnd of a network for tests."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import TypeVar

import yaml
from grpc import Channel, insecure_channel, secure_channel, ssl_channel_credentials

from tests.support.databases import new_database_url, until_unlocked
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 600
# Ends what hangs, on however busy a machine.
GUARD_SECONDS = 600
TAIL_BYTES = 3_000
Found = TypeVar("Found")
SERVICES = {
    "federate": 100000,
    "vpn": 200000,
    "websocket": 300000,
    "message": 400000,
    "socket": 500000,
    "sign": 800000,
}
# What is measured is stored by a process that ends in order.
END_SIGNAL = signal.SIGTERM if "COVERAGE_PROCESS_CONFIG" in os.environ else signal.SIGKILL
# Whose logs are told when a test fails.
launched: list["Node"] = []


def node_environ() -> dict[str, str]:
    """Return this process's environment without what configures a node, for the process of one.

    Python may keep byte code, as it does for whoever starts a node: else each start compiles 200 modules anew.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("IMPD_") and name != "PYTHONDONTWRITEBYTECODE"
    }


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = ""

    @property
    def json(self):
        return json.loads(self.body)


@dataclass(eq=False)
class Node:
    """One node beside `lnd` (anything with host, port, tls_cert_path, macaroon_path, pubkey). `extra` are sections of its
    configuration that replace the defaults; `environ` is added to its environment. Without `database_url` it gets a
    database of its own. `root` is where its code is, `python` what runs it. `tls_cert` is what clients trust, of a node that
    speaks TLS. `name` is that of its configuration, where several stand in one directory.
    """

    lnd: object
    directory: Path
    extra: dict = field(default_factory=dict)
    environ: dict = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    with_http: bool = True
    database_url: str = ""
    root: Path = ROOT
    python: str = sys.executable
    tls_cert: Path | None = None
    name: str = "config"

    def __post_init__(self):
        self.grpc_port, self.http_port = free_port(), free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_path = self.directory / f"{self.name}.yml"
        self.log_path = self.directory / ("node.log" if self.name == "config" else f"{self.name}.log")
        self.process: subprocess.Popen | None = None
        self.database_url = self.database_url or new_database_url(self.directory)
        self.configure(self.extra)

    def configure(self, extra: dict) -> None:
        """For its next start."""
        self.extra = extra
        self.config_path.write_text(yaml.safe_dump(self._config()))

    @property
    def pubkey(self) -> str:
        return self.lnd.pubkey

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For clients; strict, as some are."""
        if self.tls_cert is None:
            return None
        context = ssl.create_default_context(cafile=self.tls_cert)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    def channel(self) -> Channel:
        if self.tls_cert is None:
            return insecure_channel(self.grpc)
        return secure_channel(self.grpc, ssl_channel_credentials(self.tls_cert.read_bytes()))

    def http_connection(self) -> HTTPConnection:
        if self.tls_cert is None:
            return HTTPConnection("127.0.0.1", self.http_port, timeout=GUARD_SECONDS)
        return HTTPSConnection("127.0.0.1", self.http_port, timeout=GUARD_SECONDS, context=self.tls)

    @property
    def log(self) -> str:
        """Its whole lines: of the last one there may be a part, while it is written."""
        written = self.log_path.read_bytes()
        return written[: written.rfind(b"\n") + 1].decode()

    @property
    def log_tail(self) -> str:
        """Its last lines, whatever stands in them."""
        return (
            self.log_path.read_bytes()[-TAIL_BYTES:].decode(errors="replace")
            if self.log_path.exists()
            else ""
        )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _config(self) -> dict:
        config = {
            "server": {"enabled": True, "grpc_addr": self.grpc, "http_addr": self.http},
            "service_list": [
                {"service_type": name, "active": True, "custom_record_number": number}
                for name, number in SERVICES.items()
            ],
            "lightning": {
                "lnd_node": {
                    "ip": self.lnd.host,
                    "port": self.lnd.port,
                    "pub_key": self.lnd.pubkey,
                    "tls_cert": str(self.lnd.tls_cert_path),
                    "admin_macaroon": str(self.lnd.macaroon_path),
                }
            },
            "database": {"url": self.database_url},
            # Sellers of tests have addresses for documentation, and one sells another's network.
            "vpn": {"private_networks": "192.0.2.0/24, 10.77.0.0/24"},
        }
        for section, values in self.extra.items():
            config[section] = (
                {**config[section], **values} if isinstance(values, dict) and section in config else values
            )
        return config

    def launch(self) -> None:
        """Starts the process without waiting for it."""
        if self.process is not None:
            until_unlocked(self.database_url)
        with open(self.log_path, "a") as log:
            self.process = subprocess.Popen(
                [
                    self.python,
                    str(self.root / "manage.py"),
                    "runimpd",
                    "--config",
                    self.config_path,
                    *self.arguments,
                ],
                cwd=self.directory,
                env=node_environ() | self.environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        launched.append(self)

    def start(self) -> "Node":
        told = self.log.count("IMPD started!") if self.log_path.exists() else 0
        return self._launch_until(lambda: self.log.count("IMPD started!") > told)

    def _launch_until(self, condition) -> "Node":
        self.launch()
        try:
            self.wait_until(condition)
        except BaseException:
            self.kill()
            raise
        return self

    def refused_start(self) -> str:
        """The log of a node that ends by itself, with an error."""
        self.launch()
        self.ended_by_itself()
        return self.log

    def ended_by_itself(self) -> None:
        """Waits for its end, which tells of an error."""
        try:
            assert self.process.wait(timeout=GUARD_SECONDS) == 1, self.log_tail
        finally:
            self.kill()

    def wait_until(self, condition: Callable[[], Found]) -> Found:
        """What the condition gives, once that is true."""
        for _ in range(START_SECONDS * 20):
            if found := condition():
                return found
            if self.process.poll() is not None:
                raise AssertionError(f"the node ended with {self.process.returncode}:\n{self.log_tail}")
            time.sleep(0.05)
        raise AssertionError(f"the node did not get there in {START_SECONDS} s:\n{self.log_tail}")

    def stop(self) -> int:
        """Ends the process by SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=GUARD_SECONDS)

    def __enter__(self) -> "Node":
        return self.start()

    def __exit__(self, *_) -> None:
        self._end(END_SIGNAL)

    def request(self, method: str, path: str, body=None, headers: dict | None = None) -> Reply:
        """One HTTP request; a body that is no bytes is sent as JSON."""
        connection = self.http_connection()
        try:
            raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, raw, headers or {})
            response = connection.getresponse()
            headers = {k.lower(): v for k, v in response.getheaders()}
            return Reply(response.status, headers, response.read(), response.reason)
        finally:
            connection.close()

    def post(self, path: str, body=None, headers: dict | None = None) -> Reply:
        return self.request("POST", path, body, headers)

    def get(self, path: str, headers: dict | None = None) -> Reply:
        return self.request("GET", path, None, headers)

    def message(self, message_id: str) -> dict:
        """As the node has it now."""
        return self.get(f"/v1/message/{message_id}").json["message"]

    def ended(self, message_id: str) -> dict:
        """A message of its own, once it has come to its end."""
        self.wait_until(lambda: self.message(message_id)["state"] in ("settled", "failed"))
        return self.message(message_id)
