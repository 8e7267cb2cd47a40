from nodeapi import codec, terminal
from nodeapi.cli import leases
from nodeapi.cli.command import NodeCommand


class Command(NodeCommand):
    help = "Lists the VPN leases that this node has bought and sold: those that run, or all."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument(
            "--all", action="store_true", dest="everything", help="those that have ended, too"
        )
        parser.add_argument(
            "--role", choices=("bought", "sold", "all"), default="all", help="only those of one kind"
        )

    def run(self, *, as_json, key_file, everything, role, **options):
        with self.client(key_file) as client:
            found = client.leases("all" if everything else "", role)
        if as_json:
            terminal.print_json([codec.json_from_message(lease) for lease in found])
        else:
            leases.show(found, terminal.console(), everything=everything)
