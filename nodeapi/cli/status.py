"""How a node is, on one screen."""

from collections import Counter
from typing import Any

from rich.console import Console
from rich.text import Text

from messaging.models import UNFINISHED
from nodeapi import codec, terminal
from nodeapi.cli.client import MAX_PAGE, NodeClient
from nodeapi.node_states import RUNNING
from protos import federate_pb2, messaging_pb2, node_pb2, vpn_pb2

_STATE_STYLES = {"running": "good", "off": "dim", "unavailable": "warn", "waiting": "warn"}
_MOST_CAUSES = 3


class Status:
    """What a node says of itself when it is asked once."""

    def __init__(self, client: NodeClient):
        self.address = client.address
        self.info: node_pb2.GetInfoResponse = client.info()
        self.under_way: dict[str, list[messaging_pb2.Message]] = {
            state.value: client.messages(state.value) for state in UNFINISHED
        }
        self.leases: list[vpn_pb2.Lease] = client.leases()
        self.sold: list[vpn_pb2.Lease] = client.leases(role="sold")
        self.members: list[federate_pb2.Federation] = client.members()

    def as_json(self) -> dict[str, Any]:
        """`messages`: how many are on their way, by state, each up to 1000."""
        return {
            "address": self.address,
            "node": codec.json_from_message(self.info),
            "messages": {state: len(messages) for state, messages in self.under_way.items()},
            "leases": dict(Counter(lease.state for lease in self.leases)),
            "leasesSold": dict(Counter(lease.state for lease in self.sold)),
            "members": len(self.members),
        }

    def show(self, out: Console) -> None:
        terminal.put(out, self._node())
        out.print()
        terminal.put(out, self._services())
        for warning in self.info.warnings:
            out.print()
            out.print(Text.assemble(("! ", "warn"), terminal.safe(warning)))

    def _node(self):
        info, facts = self.info, terminal.facts()
        has_started = info.state in ("", RUNNING)
        if not has_started:
            facts.add_row("state", Text(info.state, "bad"))
        if info.pubkey:
            facts.add_row("node", Text(info.pubkey, "id"))
            facts.add_row("alias", terminal.safe(info.alias))
            facts.add_row("network", Text(info.network, "warn" if info.network == "simulated" else ""))
        facts.add_row("version", f"{info.version} at {self.address}")
        if has_started:
            facts.add_row("lnd", self._lnd())
            facts.add_row("can send", _amount(info.spendable_sat))
            facts.add_row("can receive", _amount(info.receivable_sat))
        facts.add_row("messages", self._messages())
        if has_started:
            facts.add_row("answers", self._answers())
        facts.add_row("events", f"{info.last_seq:,}" if info.last_seq else "none yet")
        facts.add_row("federation", f"{len(self.members)} members" if self.members else "no members")
        facts.add_row("VPN leases", self._running_leases())
        return facts

    def _running_leases(self) -> str:
        running = {"bought": len(self.leases), "sold": len(self.sold)}
        return ", ".join(f"{count} {role}" for role, count in running.items() if count) or "none running"

    def _lnd(self) -> Text:
        info = self.info
        if not info.lnd_reachable:
            return Text("away", "bad")
        said = [
            Text("in sync", "good") if info.synced else Text("not in sync", "bad"),
            Text("keysend on", "good") if info.keysend else Text("keysend off", "bad"),
        ]
        return Text(", ").join([Text(terminal.safe(info.lnd_version) or "reachable"), *said])

    def _answers(self) -> str:
        """What was sent because others have written, in 24 hours."""
        info = self.info
        return f"{info.answers_used_sat:,} of {info.answers_limit_sat:,} sat that others have paid"

    def _messages(self) -> Text:
        counted = {state: messages for state, messages in self.under_way.items() if messages}
        if not counted:
            return Text("none on their way")
        words = [f"{_number(len(messages))} {state.replace('_', ' ')}" for state, messages in counted.items()]
        text = Text(", ".join(words))
        causes = Counter(message.error for message in counted.get("retrying", ()) if message.error)
        for cause, count in causes.most_common(_MOST_CAUSES):
            text.append(f"\n{count} × {terminal.safe(cause)}", "warn")
        return text

    def _services(self):
        services = terminal.table("SERVICE", "STATE", "RECORD", right=("RECORD",))
        for service in self.info.services:
            style = _STATE_STYLES.get(service.state, "")
            services.add_row(
                service.service_type, Text(service.state, style), str(service.custom_record_number)
            )
        return services


def _amount(amount_sat: int) -> Text:
    return Text(terminal.sat(amount_sat), "" if amount_sat else "bad")


def _number(count: int) -> str:
    return f"{count}+" if count >= MAX_PAGE else str(count)
