from nodeapi import codec, terminal
from nodeapi.cli import leases
from nodeapi.cli.command import NodeCommand


class Command(NodeCommand):
    help = "Lists the VPN leases that this node has bought: those that run, or all."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("--all", action="store_true", dest="everything", help="those that have ended, too")

    def run(self, *, as_json, key_file, everything, **options):
        with self.client(key_file) as client:
            found = client.leases("all" if everything else "")
        if as_json:
            terminal.print_json([codec.json_from_message(lease) for lease in found])
        else:
            leases.show(found, terminal.console(), everything=everything)
