from nodeapi import codec, terminal
from nodeapi.cli import listen
from nodeapi.cli.command import NodeCommand


class Command(NodeCommand):
    help = "Follows the node's stream of events: what arrives, and what becomes of what was sent. Ctrl-C ends it."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument(
            "--after",
            type=int,
            metavar="SEQ",
            help="begin behind this event, 0: with the oldest (default: what is new)",
        )
        parser.add_argument(
            "--service",
            action="append",
            default=[],
            metavar="NAME",
            help="only these events: message, delivery, vpn, …; may be given several times",
        )
        parser.add_argument("--count", type=int, metavar="NUMBER", help="end after so many events")
        parser.add_argument("--full", action="store_true", help="show long messages whole")

    def run(self, *, as_json, key_file, after, service, count, full, **options):
        out, errors = terminal.console(), terminal.errors()
        with self.client(key_file) as client:
            events = listen.follow(client, after=after, services=tuple(service), say=errors.print)
            for number, event in enumerate(events, 1):
                if as_json:
                    terminal.print_json({"result": codec.json_from_message(event)}, indent=None)
                else:
                    listen.show(event, out, whole=full)
                if number == count:
                    return
