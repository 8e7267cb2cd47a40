import sys

from nodeapi import codec, terminal
from nodeapi.cli import message
from nodeapi.cli.client import NodeClient, NodeError
from nodeapi.cli.command import NodeCommand


class Command(NodeCommand):
    help = "Shows one message and its payments. With --give-up, gives up one that has not ended, whatever lnd says."

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("id", metavar="ID", help="the message's id")
        parser.add_argument(
            "--give-up", action="store_true", help="send nothing more of it; asks before it does"
        )
        parser.add_argument("--yes", action="store_true", help="with --give-up: do not ask")

    def run(self, *, as_json, key_file, id, give_up, yes, **options):
        scopes = frozenset({"read", "admin"}) if give_up else self.requires_scopes
        with self.client(key_file, scopes) as client:
            found = client.message(id)
            payments = client.payments(id) if found.direction == "out" else []
            if give_up:
                self._give_up(client, found, payments, as_json=as_json, yes=yes)
                return
        if as_json:
            told = codec.json_from_message(found)
            terminal.print_json(told | {"payments": [codec.json_from_message(one) for one in payments]})
        else:
            message.show(found, payments, terminal.console())

    def _give_up(self, client: NodeClient, found, payments, *, as_json: bool, yes: bool) -> None:
        if not yes:
            message.show(found, payments, terminal.errors())
            _ask(found.state == "in_flight")
        reply = client.give_up(found.id)
        if as_json:
            terminal.print_json(codec.json_from_message(reply))
        elif reply.may_cost_msat:
            words = f"Given up. lnd may still pay {reply.may_cost_msat / 1000:,g} sat for it, which stay reserved until it tells the end."
            terminal.console().print(words)
        else:
            terminal.console().print("Given up. It has cost nothing.")


def _ask(is_under_way: bool) -> None:
    """Raises NodeError unless a person at a terminal says yes."""
    if not sys.stdin.isatty():
        raise NodeError("--give-up asks before it does: run it on a terminal, or say --yes")
    risk = "lnd may still deliver it, and pay for it. " if is_under_way else ""
    sys.stderr.write(f"\n{risk}Give it up? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise NodeError("nothing was changed")
