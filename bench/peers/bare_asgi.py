"""A bare ASGI handler that does one insert a call: `daphne bench.peers.bare_asgi:application`, BENCH_DATABASE is its file."""

import json
import os

from bench.peers.bare_insert import Inserts

inserts = Inserts(os.environ["BENCH_DATABASE"])


async def application(scope, receive, send):
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    fields = json.loads(body)
    answer = json.dumps({"id": await inserts.insert(fields["msg"].encode())}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
