"""The VPN leases that this node has bought and sold, as a table."""

from rich.console import Console
from rich.text import Text

from nodeapi import terminal
from protos import vpn_pb2

_STYLES = {"active": "good", "expiring": "warn", "ended": "dim"}


def show(leases: list[vpn_pb2.Lease], out: Console, *, everything: bool) -> None:
    if not leases:
        none_runs = "No VPN lease runs. With --all, those that have ended."
        out.print("No VPN lease was ever bought or sold." if everything else none_runs)
        return
    made = terminal.table(
        "LEASE",
        "ROLE",
        "STATE",
        "LEFT",
        "BOUGHT",
        "PAID",
        "ADDRESS",
        "SAT/H",
        "NODE",
        right=("PAID", "SAT/H"),
    )
    made.columns[0].no_wrap = True
    for lease in leases:
        made.add_row(
            Text(lease.id if out.width >= terminal.WIDE_COLUMNS else f"{lease.id[:8]}…", "id"),
            Text(lease.role),
            Text(lease.state, _STYLES.get(lease.state, "")),
            terminal.duration(lease.seconds_left) if lease.state != "ended" else "",
            terminal.duration(lease.seconds),
            str(lease.paid_sat),
            terminal.safe(lease.address),
            terminal.safe(lease.price),
            terminal.key(lease.pubkey, out),
        )
    terminal.put(out, made)
