"""A message sent, and on wish followed to its end."""

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from nodeapi import terminal
from nodeapi.cli.client import NodeClient, NodeError
from protos import messaging_pb2

ENDED = {"settled": "good", "failed": "bad"}
AGAIN_SECONDS = 1.0
# A node that went away while its answer was waited for is asked again for this long.
AWAY_SECONDS = 300

Told = Callable[[messaging_pb2.Message], None]


def read_body(text: str) -> bytes:
    """What to send: the text, or standard input where it is `-`."""
    body = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    if not body:
        raise NodeError("there is nothing to send: the text is empty")
    return body


def wait_for_end(
    client: NodeClient, message_id: str, *, timeout_seconds: float | None, on_change: Told
) -> messaging_pb2.Message:
    """The message once it has settled or failed, or as it is when the time is over. It goes on whoever waits; a node
    that restarts meanwhile is waited for.
    """
    until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    last_answer = time.monotonic()
    while True:
        try:
            deliveries = client.subscribe(after=None, services=("delivery",), timeout_seconds=_left(until))
            message = _told(client, message_id, on_change)
            last_answer = time.monotonic()
            while message.state not in ENDED:
                if next(deliveries).id == message_id:
                    message = _told(client, message_id, on_change)
            return message
        except NodeError as error:
            if until is not None and time.monotonic() >= until:
                return client.message(message_id)
            if not error.away or time.monotonic() - last_answer > AWAY_SECONDS:
                raise
        time.sleep(AGAIN_SECONDS)


def _told(client: NodeClient, message_id: str, on_change: Told) -> messaging_pb2.Message:
    message = client.message(message_id)
    on_change(message)
    return message


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.1, until - time.monotonic())


def progress(out: Console, words: str) -> Progress:
    """A line that lives while something is waited for, on a terminal only."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    made = Progress(*columns, console=out, transient=True, disable=not out.is_terminal)
    made.add_task(words)
    return made


def in_words(message: messaging_pb2.Message) -> Text:
    """What has become of a message, on one line."""
    text = Text.assemble((f"{message.state.replace('_', ' '):<10}", ENDED.get(message.state, "warn")))
    details = []
    if message.attempts:
        details.append(_count(message.attempts, "attempt"))
    if message.parts > 1:
        details.append(_count(message.parts, "payment"))
    if message.state == "settled":
        details.append(f"{terminal.sat(message.amount)} and {message.fee_msat / 1000:,g} sat fee")
    if message.error:
        details.append(terminal.safe(message.error))
    return text.append(", ".join(details))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
