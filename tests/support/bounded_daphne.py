"""A Daphne with limits of a test's own, as a process: `Bounded(limits…)`. Its application answers with the body's
length, or takes any websocket; of `/stream` it answers headers and no end.
"""

import ipaddress
import json
import os
import resource
import subprocess
import sys
from collections import namedtuple
from http.client import HTTPConnection
from pathlib import Path

from tests.support.nodes import ROOT
from tests.support.ports import free_port

GUARD_SECONDS = 600
TOO_SLOW, BUSY = 408, 503
Address = namedtuple("Address", "host port")


class Bounded:
    """`open_files`: the process's limit."""

    def __init__(self, *, open_files: int = 4096, trusted: tuple[str, ...] = (), **limits):
        self.port = free_port()
        defaults = {"body_bytes": 2**20, "all_bodies_bytes": 8 * 2**20, "connections": 1000}
        arguments = json.dumps({"open_files": open_files, "trusted": trusted, "limits": defaults | limits})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.bounded_daphne", str(self.port), arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
        )

    def __enter__(self) -> "Bounded":
        self.post(b"")
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()

    def post(self, body: bytes, source: str = "127.0.0.1") -> tuple[int, bytes]:
        """The answer to a new connection of an honest client, who tries again where it was not served."""
        for _ in range(GUARD_SECONDS * 10):
            assert self.process.poll() is None
            connection = HTTPConnection(
                "127.0.0.1", self.port, timeout=GUARD_SECONDS, source_address=(source, 0)
            )
            try:
                connection.request("POST", "/", body)
                response = connection.getresponse()
                status, answer = response.status, response.read()
                # A client that stood still between the headers and the body is not served either, nor one that comes while all
                # places are taken.
                if status not in (TOO_SLOW, BUSY):
                    return status, answer
            except OSError:
                pass
            finally:
                connection.close()
            subprocess.run(["sleep", "0.1"], check=False)
        raise AssertionError("an honest client is not served")

    def resident_kb(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


async def application(scope, receive, send) -> None:
    event = await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    size = len(event.get("body", b""))
    while event.get("more_body"):
        event = await receive()
        size += len(event.get("body", b""))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
    await send({"type": "http.response.body", "body": str(size).encode()})


def main() -> None:
    from nodeapi.http_limits import HttpLimits, install  # noqa: PLC0415 (in the process that serves)
    from nodeapi.http_server import HttpServer  # noqa: PLC0415 (the same)

    options = json.loads(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_NOFILE, (options["open_files"], options["open_files"]))
    trusted = tuple(ipaddress.ip_network(text) for text in options["trusted"])
    install(HttpLimits(**options["limits"], trusted=trusted))
    server = HttpServer(application, address=Address("127.0.0.1", int(sys.argv[1])), tls=None)
    server.run()


if __name__ == "__main__":
    main()
