from rich.text import Text

from nodeapi import codec, terminal
from nodeapi.cli import send
from nodeapi.cli.command import NodeCommand
from protos import messaging_pb2


class Command(NodeCommand):
    help = "Sends a message to another node. With --wait, follows it until it is settled (exit code 0) or failed (1)."
    requires_scopes = frozenset({"read", "send"})

    def add_arguments(self, parser):
        super().add_arguments(parser)
        parser.add_argument("pubkey", metavar="PUBKEY", help="the other node's key, 66 hexadecimal digits")
        parser.add_argument("text", metavar="TEXT", help="the message; - reads it from standard input")
        parser.add_argument(
            "--amount", type=int, default=1, metavar="SAT", help="what goes with it (default: 1)"
        )
        parser.add_argument("--reply-to", default="", metavar="ID", help="the message that this one answers")
        parser.add_argument("--expires-in", type=int, default=0, metavar="SECONDS", help="when to give it up")
        parser.add_argument("--wait", action="store_true", help="follow it to its end")
        parser.add_argument(
            "--timeout", type=float, metavar="SECONDS", help="with --wait: follow it no longer"
        )
        parser.add_argument(
            "--idempotency-key", metavar="KEY", help="the same key and message are sent only once"
        )

    def run(
        self, *, as_json, key_file, pubkey, text, amount, reply_to, expires_in, idempotency_key, **options
    ):
        request = messaging_pb2.SendMessageRequest(
            msg=send.read_body(text),
            pubkey=pubkey,
            amount=amount,
            reply_to_id=reply_to,
            expires_in=expires_in,
        )
        scopes = self.requires_scopes if options["wait"] else frozenset({"send"})
        with self.client(key_file, scopes) as client:
            message_id = client.send(request, idempotency_key=idempotency_key)
            if options["wait"]:
                return self._follow(client, message_id, as_json, options["timeout"])
        if as_json:
            terminal.print_json({"id": message_id}, indent=None)
        else:
            terminal.console().print(Text.assemble("accepted  ", (message_id, "id")))
        return None

    def _follow(self, client, message_id: str, as_json: bool, timeout_seconds: float | None) -> int:
        out = terminal.errors() if as_json else terminal.console()
        if not as_json:
            out.print(Text.assemble("accepted  ", (message_id, "id")))

        def show(message: messaging_pb2.Message) -> None:
            if not as_json:
                out.print(send.in_words(message))

        with send.progress(out, "on its way"):
            message = send.wait_for_end(
                client,
                message_id,
                timeout_seconds=timeout_seconds,
                on_change=show,
            )
        if as_json:
            terminal.print_json(codec.json_from_message(message), indent=None)
        if message.state not in send.ENDED:
            terminal.errors().print("Not ended yet; the node goes on with it.")
        return 0 if message.state == "settled" else 1
