"""The stream of a node, followed: through restarts of the node by its cursor, and shown so that nothing that another
node sent can do anything to the terminal.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from nodeapi import terminal
from nodeapi.cli.client import NodeClient, NodeError
from protos import websocket_pb2

Event = websocket_pb2.SubscribeResponse

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
HEX_BYTES = 32
BAR = "  │ "
SHOWN_BYTES = 2_000
_DELIVERY_STYLES = {"settled": "good", "retrying": "warn", "failed": "bad"}


def follow(
    client: NodeClient, *, after: int | None, services: tuple[str, ...], say: Callable[[str], None]
) -> Iterator[Event]:
    """Every event once, in order: from behind `after`, or what is new. A node that goes away is waited for, which
    `say` is told. NodeError when there is none at first, or when it refuses.
    """
    # With a place in the log to go on from, nothing is missed before the first event either.
    cursor = client.info().last_seq if after is None else after
    pause_seconds, away, reached = FIRST_PAUSE_SECONDS, False, False
    while True:
        try:
            events = client.subscribe(after=cursor, services=services)
            if not reached:
                say(f"Listening at {client.address}, after event {cursor}. Ctrl-C ends it.")
            elif away:
                say(f"The node is back; going on after event {cursor}.")
            pause_seconds, away, reached = FIRST_PAUSE_SECONDS, False, True
            for event in events:
                cursor = event.seq
                yield event
        except NodeError as error:
            if not (reached and error.away):
                raise
            if not away:
                say("The node went away; waiting for it.")
            away = True
        time.sleep(pause_seconds)
        pause_seconds = min(LONGEST_PAUSE_SECONDS, 2 * pause_seconds)


def show(event: Event, out: Console, *, whole: bool) -> None:
    """One event: a line about it (more where the terminal is narrow), and its content behind a bar on every line, so
    that no content can pass for such a line.
    """
    delivery = _delivery(event)
    parts = _delivery_head(event, delivery, out) if delivery else _head(event, out)
    out.print(Text("\n   " if out.width < terminal.WIDE_COLUMNS else "  ").join(parts), soft_wrap=True)
    for line in () if delivery else content(event.data, whole=whole):
        for piece in Text(line).wrap(out, out.width - 2 * len(BAR)) or [Text()]:
            out.print(Text.assemble((BAR, "dim"), piece), soft_wrap=True)


def _head(event: Event, out: Console) -> list[Text]:
    if event.service_type == "log":
        return [Text.assemble((f"#{event.seq}", "dim"), " ", ("log", "warn"))]
    sender = terminal.key(terminal.safe(event.from_pubkey), out) or "unknown"
    head = Text.assemble(
        (f"#{event.seq}", "dim"),
        " ",
        (terminal.safe(event.service_type), "head"),
        " from ",
        (sender, "id"),
        f"  {terminal.sat(event.amount)}",
    )
    answers = [Text(f"in reply to {event.reply_to_id}", "dim")] if event.reply_to_id else []
    return [head, Text(f"id {event.id}", "dim"), *answers]


def _delivery(event: Event) -> dict[str, Any] | None:
    """What a delivery event says; None for any other event."""
    if event.service_type != "delivery":
        return None
    try:
        told = json.loads(event.data)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _delivery_head(event: Event, told: dict[str, Any], out: Console) -> list[Text]:
    def said(name: str) -> str:
        return terminal.safe(str(told.get(name, "")))

    head = Text.assemble(
        (f"#{event.seq}", "dim"),
        " ",
        ("delivery", "head"),
        " ",
        (said("state"), _DELIVERY_STYLES.get(said("state"), "")),
        " to ",
        (terminal.key(said("pubkey"), out), "id"),
        f"  {said('amount')} sat",
    )
    why = [Text(said("error"), "warn")] if told.get("error") else []
    return [head, Text(f"id {event.id}", "dim"), *why]


def content(data: bytes, *, whole: bool) -> list[str]:
    """An event's data in lines fit for a terminal: text as text, little else in hexadecimal digits, more in base64."""
    readable = terminal.is_text(data)
    shown = data if whole or len(data) <= SHOWN_BYTES else data[:SHOWN_BYTES]
    if readable:
        # Cut within a character, its rest is left out.
        lines = terminal.safe(shown.decode(errors="ignore"), lines=True).split("\n")
    elif len(data) <= HEX_BYTES:
        lines = [f"hex {data.hex()}"]
    else:
        lines = [f"base64 {base64.b64encode(shown).decode()}"]
    if len(shown) < len(data):
        lines.append(f"… {len(data) - len(shown):,} more bytes (--full shows them)")
    return lines
