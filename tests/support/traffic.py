"""Steady traffic from one node to another, and whether all that was answered with an id came to its end, once."""

import threading
import time

from tests.support.nodes import Node, Reply
from tests.support.streams import SEND, b64

PAGE = 1000


class Traffic:
    """Inside the context, clients write to `recipient`. `ids` were accepted, `refused` are the other replies."""

    def __init__(self, sender: Node, recipient: Node, *, clients: int = 4, pause_seconds: float = 0.02):
        self._sender, self._recipient = sender, recipient
        self._pause_seconds = pause_seconds
        self._ended = threading.Event()
        self._clients = [threading.Thread(target=self._write, daemon=True) for _ in range(clients)]
        self.ids: list[str] = []
        self.refused: list[Reply] = []

    def __enter__(self) -> "Traffic":
        for client in self._clients:
            client.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        for client in self._clients:
            client.join()

    def wait_for_more(self) -> None:
        """Until more messages were accepted."""
        known = len(self.ids)
        self._sender.wait_until(lambda: len(self.ids) >= known + 20)

    def wait_for_refusal(self) -> None:
        known = len(self.refused)
        self._sender.wait_until(lambda: len(self.refused) > known)

    def _write(self) -> None:
        while not self._ended.is_set():
            reply = self._sender.post(SEND, {"msg": b64(b"hello"), "pubkey": self._recipient.pubkey})
            if reply.status == 200:
                self.ids.append(reply.json["id"])
            else:
                self.refused.append(reply)
            time.sleep(self._pause_seconds)


def messages(node: Node, query: str) -> list[dict]:
    """The whole history that the query asks for."""
    found: list[dict] = []
    while True:
        before = f"&before={found[-1]['id']}" if found else ""
        page = node.get(f"/v1/messages?{query}&limit={PAGE}{before}").json["messages"]
        if not page:
            return found
        found += page


def assert_all_arrive_once(sender: Node, recipient: Node, ids: list[str]) -> None:
    """Each is settled at its sender and received once, and the recipient's stream tells of each once."""
    wanted = set(ids)
    assert len(wanted) == len(ids)
    recipient.wait_until(lambda: wanted <= {message["id"] for message in messages(recipient, "direction=in")})
    sender.wait_until(
        lambda: wanted <= {message["id"] for message in messages(sender, "direction=out&state=settled")}
    )
    received = [message["id"] for message in messages(recipient, "direction=in")]
    assert len(received) == len(set(received))
