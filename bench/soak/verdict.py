"""The comparison of what clients were answered, what streams told, what lnd was paid, what nodes hold for paid."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.soak.ledgers import Paid
from bench.soak.traffic import Sent
from bench.soak.watchers import Told, Watcher

SHOWN = 20


@dataclass
class Verdict:
    """Counts, and what is wrong by kind; each fault is a line that names the id."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)

    KINDS = ("lost", "twice", "paid twice", "books", "stream gaps", "stream repetitions")

    def fault(self, kind: str, line: str) -> None:
        self.faults.setdefault(kind, []).append(line)

    @property
    def good(self) -> bool:
        return not self.faults

    def text(self) -> str:
        rows = [*self.counts.items(), *((kind, len(self.faults.get(kind, ()))) for kind in self.KINDS)]
        width = max(len(name) for name, _ in rows)
        lines = [f"   {name:<{width}}  {count:>8,}" for name, count in rows]
        for kind, faults in self.faults.items():
            lines += ["", f"{kind}:", *(f"   {line}" for line in faults[:SHOWN])]
            lines += [f"   … and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        return "\n".join(lines)


def check_messages(
    verdict: Verdict, sent: Iterable[Sent], states: dict[str, dict], received: dict[str, list[Told]]
) -> None:
    """`states`: by id, what the sender's node answers; `received`: by the sender's name, the far end's log."""
    by_id = {name: _grouped(log, lambda told: told.id) for name, log in received.items()}
    by_body = {name: _grouped(log, lambda told: told.data) for name, log in received.items()}
    for message in sent:
        seen = by_body[message.sender].get(message.body, [])
        if len(seen) > 1:
            verdict.fault(
                "twice", f"{_shown(message)}: {len(seen)} events ({seen[0].id}, {seen[1].id} …) of this body"
            )
        if not message.id:
            verdict.counts["without an answer"] += 1
            if message.key and not message.status:
                verdict.fault("lost", f"{_shown(message)} was never answered under its key")
            continue
        verdict.counts[message.kind] += 1
        _check_answered(verdict, message, states.get(message.id), by_id[message.sender].get(message.id, []))
    _check_ids(verdict, sent)


def _check_answered(verdict: Verdict, message: Sent, state: dict | None, told: list[Told]) -> None:
    if state is None:
        verdict.fault("lost", f"{_shown(message)}: the sender's node does not know it")
        return
    verdict.counts[state["state"]] += 1
    if state["state"] == "settled":
        if not told:
            verdict.fault("lost", f"{_shown(message)}: settled, and not in the far end's log")
        elif told[0].data != message.body:
            verdict.fault("lost", f"{_shown(message)}: another body in the far end's log")
        if len(told) > 1:
            verdict.fault("twice", f"{_shown(message)}: {len(told)} events in the far end's log")
    elif state["state"] == "failed":
        if told:
            verdict.fault("books", f"{_shown(message)}: failed ({state['error']}), but in the far end's log")
        if not state["error"]:
            verdict.fault("lost", f"{_shown(message)}: failed without a cause")
    else:
        verdict.fault("lost", f"{_shown(message)}: still {state['state']} ({state['error']})")


def _check_ids(verdict: Verdict, sent: Iterable[Sent]) -> None:
    """An id is one message's; what was asked for under different keys has different ids."""
    for message_id, count in Counter(message.id for message in sent if message.id).items():
        if count > 1:
            verdict.fault("books", f"{message_id} was answered to {count} messages")


def check_deliveries(verdict: Verdict, states: dict[str, dict], log: list[Told], ids: Iterable[str]) -> None:
    """The sender's own log tells the end of each message once, and no other than its node answers."""
    ends: dict[str, list[str]] = {}
    for told in log:
        if told.service == "delivery" and (state := told.delivery["state"]) in ("settled", "failed"):
            ends.setdefault(told.id, []).append(state)
    for message_id in ids:
        state = states.get(message_id, {}).get("state")
        if state in ("settled", "failed") and ends.get(message_id) != [state]:
            verdict.fault(
                "books", f"{message_id} is {state}; its log tells of its end: {ends.get(message_id)}"
            )


def check_payments(verdict: Verdict, name: str, paid: Paid, attempts: list[bytes]) -> None:
    """`paid`: what the far lnd was paid; `attempts`: what the sender holds for settled."""
    verdict.counts["joined (packets)"] += paid.joined
    verdict.counts["split"] += len(paid.split)
    for (message_id, part), count in paid.parts.items():
        if count > 1:
            verdict.fault("paid twice", f"{message_id} part {part} of {name}: {count} settled HTLCs")
    for payment_hash, count in paid.hashes.items():
        if count > 1:
            verdict.fault("paid twice", f"payment {payment_hash.hex()} of {name}: {count} settled HTLCs")
    held = Counter(attempts)
    for payment_hash in paid.hashes.keys() - held.keys():
        verdict.fault(
            "books", f"payment {payment_hash.hex()} of {name} is settled in lnd, not in its database"
        )
    for payment_hash in held.keys() - paid.hashes.keys():
        verdict.fault(
            "books", f"payment {payment_hash.hex()} of {name} is settled in its database, not in lnd"
        )


def check_paid_messages(verdict: Verdict, paid: Paid, states: dict[str, dict], ids: Iterable[str]) -> None:
    """A settled message was paid for, with all its parts; a failed one was not, whole."""
    for message_id in ids:
        state = states.get(message_id, {}).get("state")
        parts = range(paid.split.get(message_id, 1))
        missing = [part for part in parts if (message_id, part) not in paid.parts]
        if state == "settled" and missing:
            verdict.fault("lost", f"{message_id} is settled and no settled HTLC holds its parts {missing}")
        if state == "failed" and not missing:
            verdict.fault("books", f"{message_id} has failed, but settled HTLCs hold it")


def check_stream(verdict: Verdict, watcher: Watcher, log: list[Told]) -> None:
    """One client's record against its node's log."""
    verdict.counts["events told"] += len(watcher.told)
    verdict.counts["returns of stream clients"] += watcher.returns
    seen = Counter(told.seq for told in watcher.told)
    for seq, count in seen.items():
        if count > 1:
            verdict.fault("stream repetitions", f"{watcher.name}: seq {seq}, {count} times")
    by_seq = {told.seq: told for told in log}
    for seq in by_seq.keys() - seen.keys():
        verdict.fault("stream gaps", f"{watcher.name}: seq {seq} ({by_seq[seq].service} {by_seq[seq].id})")
    for told in watcher.told:
        if by_seq.get(told.seq) != told:
            verdict.fault(
                "books", f"{watcher.name}: seq {told.seq} ({told.id}) is another event in the log, or none"
            )
    if sorted(seen) != [told.seq for told in watcher.told]:
        verdict.fault("books", f"{watcher.name}: events out of their order")


def _grouped(log: list[Told], key) -> dict:
    groups: dict = {}
    for told in log:
        if told.service == "message":
            groups.setdefault(key(told), []).append(told)
    return groups


def _shown(message: Sent) -> str:
    name = b" ".join(message.body.split(b" ", 2)[:2]).decode()
    return (
        f"{message.id or 'no id'} ({message.kind}, {name}, {len(message.body)} bytes, {message.calls} calls)"
    )
