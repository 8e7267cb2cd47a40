"""One message, with the payments by which it is sent, as an operator looks at it."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from nodeapi import terminal
from nodeapi.cli import send
from protos import messaging_pb2

_STATES = {"settled": "good", "failed": "bad", "in_flight": "warn"}


def show(
    message: messaging_pb2.Message, payments: Iterable[messaging_pb2.MessagePayment], out: Console
) -> None:
    facts = terminal.facts()
    facts.add_row("message", Text(message.id, "id"))
    facts.add_row("direction", "received from" if message.direction == "in" else "sent to")
    facts.add_row("peer", Text(message.pubkey or "not named", "id"))
    facts.add_row("service", message.service)
    facts.add_row("amount", f"{terminal.sat(message.amount)}, {len(message.msg):,} bytes")
    facts.add_row("state", send.in_words(message))
    facts.add_row("since", terminal.ago(message.updated_at))
    terminal.put(out, facts)
    rows = list(payments)
    if rows:
        out.print()
        _show_payments(rows, out)


def _show_payments(payments: list[messaging_pb2.MessagePayment], out: Console) -> None:
    made = terminal.table("PAYMENT", "STATE", "AMOUNT", "CARRIES", "BEGUN", "WHY")
    made.columns[0].no_wrap = True
    for payment in payments:
        made.add_row(
            Text(payment.payment_hash, "id"),
            Text(payment.state.replace("_", " "), _STATES.get(payment.state, "")),
            f"{payment.amount_msat / 1000:,g} sat",
            _carries(payment),
            terminal.ago(payment.created_at),
            terminal.safe(payment.error),
        )
    terminal.put(out, made)


def _carries(payment: messaging_pb2.MessagePayment) -> str:
    if payment.part:
        return f"part {payment.part}"
    return "this message" if payment.messages == 1 else f"{payment.messages} messages"
