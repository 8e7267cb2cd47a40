from nodeapi import terminal
from nodeapi.cli.command import NodeCommand
from nodeapi.cli.status import Status


class Command(NodeCommand):
    help = "Shows how the node is: lnd, what can be sent and received, services, messages on their way."

    def run(self, *, as_json, key_file, **options):
        with self.client(key_file) as client:
            status = Status(client)
        if as_json:
            terminal.print_json(status.as_json())
        else:
            status.show(terminal.console())
