"""The nodes that this one has to do with, as a table."""

from rich.console import Console
from rich.text import Text

from nodeapi import terminal
from protos import messaging_pb2


def show(peers: list[messaging_pb2.Peer], out: Console) -> None:
    if not peers:
        out.print("No peers yet: this node has written to nobody, and nobody to it.")
        return
    made = terminal.table("NODE", "NAME", "KNOWN", "FEDERATION", "LAST SEEN")
    made.columns[0].no_wrap = True
    for peer in peers:
        made.add_row(
            Text(terminal.key(peer.pubkey, out), "id"),
            terminal.safe(peer.label),
            _known(peer),
            Text(peer.federation, "good" if peer.federation == "member" else ""),
            terminal.ago(peer.last_seen_at),
        )
    terminal.put(out, made)


def _known(peer: messaging_pb2.Peer) -> Text:
    """Why the node keeps room for long messages of this one, or that it refuses them all."""
    if peer.blocked:
        return Text("blocked", "bad")
    return Text(
        ", ".join(word for word, holds in (("marked", peer.marked), ("written to", peer.written_to)) if holds)
    )
