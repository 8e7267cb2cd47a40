"""A lean HTTP client, so that the client is not what is measured: one kept connection, one request at a time."""

import asyncio
import base64
import json


class RestClient:
    """`async with RestClient("127.0.0.1:8882") as client: await client.post(path, body)`."""

    def __init__(self, address: str):
        self._host, _, port = address.rpartition(":")
        self._port = int(port)

    async def __aenter__(self) -> "RestClient":
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_) -> None:
        self._writer.close()

    async def post(self, path: str, body: bytes) -> bytes:
        return await self._request("POST", path, body)

    async def get(self, path: str) -> bytes:
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes) -> bytes:
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        start = lower.find(b"content-length:")
        if start < 0:
            raise ValueError(f"an answer without a length: {head!r}")
        length = int(lower[start + 15 : lower.index(b"\r\n", start)])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(f"{method} {path}: {head.splitlines()[0].decode()} {answer[:300]!r}")
        return answer


def message_body(pubkey: str, text: bytes) -> bytes:
    return json.dumps({"msg": base64.b64encode(text).decode(), "pubkey": pubkey}).encode()
