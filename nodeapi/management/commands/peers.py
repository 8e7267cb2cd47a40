from nodeapi import codec, terminal
from nodeapi.cli import peers
from nodeapi.cli.client import MAX_PAGE
from nodeapi.cli.command import NodeCommand


class Command(NodeCommand):
    help = "Lists the nodes that this one has written to or heard from, the last one first."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument(
            "--limit", type=int, default=100, help=f"at most so many, up to {MAX_PAGE} (default: 100)"
        )

    def run(self, *, as_json, key_file, limit, **options):
        with self.client(key_file) as client:
            found = client.peers(limit)
        if as_json:
            terminal.print_json([codec.json_from_message(peer) for peer in found])
        else:
            peers.show(found, terminal.console())
