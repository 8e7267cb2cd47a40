"""ASGI applications called in this process, without a server."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asgiref.testing import ApplicationCommunicator

# Ends what hangs, on however busy a machine.
GUARD_SECONDS = 600
Headers = Iterable[tuple[str, str]]
LOCALHOST = ("host", "localhost:8882")


class Client(ApplicationCommunicator):
    """One call of an application, whose events a test gives and takes one by one."""

    async def receive_output(self, timeout: float = GUARD_SECONDS) -> dict[str, Any]:  # noqa: ASYNC109
        return await super().receive_output(timeout)

    async def wait(self, timeout: float = GUARD_SECONDS) -> None:  # noqa: ASYNC109
        await super().wait(timeout)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(
    kind: str, path: str, *, method: str = "GET", headers: Headers = (), subprotocols: Iterable[str] = ()
) -> dict[str, Any]:
    """Of a call to this host, unless the headers name another one. `path` may have a query."""
    path, _, query = path.partition("?")
    given = list(headers)
    if not any(name.lower() == "host" for name, _ in given):
        given.insert(0, LOCALHOST)
    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given],
        "client": ["127.0.0.1", 4711],
        "server": ["127.0.0.1", 8882],
    }
    return scope | ({"method": method} if kind == "http" else {"subprotocols": list(subprotocols)})


async def call(
    application,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | list[bytes] = b"",
    headers: Headers = (),
) -> Reply:
    """One call, whose body may come in several pieces; the whole answer."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    pieces = body if isinstance(body, list) else [body]
    caller = Client(application, scope_of("http", path, method=method, headers=headers))
    for number, piece in enumerate(pieces, 1):
        await caller.send_input({"type": "http.request", "body": piece, "more_body": number < len(pieces)})
    start = await caller.receive_output()
    answer = await caller.receive_output()
    assert not answer.get("more_body")
    await caller.wait()
    named = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    assert len(named) == len(start["headers"]), "a header was sent twice"
    return Reply(start["status"], named, answer["body"])
