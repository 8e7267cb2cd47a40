import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from vpn import rules
from vpn.check import check
from vpn.setup import Setup, SetupError, Step, Wanted, read_state
from vpn.wireguard import WireGuard, WireGuardError


class Command(BaseCommand):
    help = "The WireGuard interface with which this node sells VPN: make it, check it, and the rules for its clients."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parts = parser.add_subparsers(dest="part", required=True)
        setup = parts.add_parser(
            "setup", help="makes the interface, its keys, forwarding and address translation"
        )
        setup.add_argument(
            "--interface", metavar="NAME", help="the new interface's name (default: one of its own)"
        )
        setup.add_argument("--remove", action="store_true", help="undoes what was made")
        setup.add_argument("--yes", action="store_true", help="do not ask")
        parts.add_parser("check", help="tells what is wrong; exits with 1 then")
        exits = parts.add_parser(
            "rules", help="prints nftables rules that keep clients from this machine's services"
        )
        exits.add_argument("--interface", metavar="NAME", help="default: the one with vpn.server_pub_key")
        exits.add_argument("--apply", action="store_true", help="put them in force")
        exits.add_argument("--remove", action="store_true", help="take them away")

    def handle(self, *args: Any, part: str, **options: Any) -> None:
        if settings.IMPD is None or settings.IMPD.path is None:
            raise CommandError(
                f"needs a configuration: --config PATH, or one of {', '.join(settings.CONFIG_PLACES)}"
            )
        wanted = Wanted.from_config(settings.IMPD.path, settings.IMPD.vpn)
        try:
            asyncio.run(getattr(self, f"_{part}")(wanted, options))
        except (SetupError, WireGuardError, rules.RulesError) as error:
            raise CommandError(str(error)) from None

    async def _setup(self, wanted: Wanted, options: dict[str, Any]) -> None:
        setup = Setup(wanted)
        steps = await (setup.removal_plan() if options["remove"] else setup.plan(options["interface"]))
        self.stdout.write("This will:\n" + "".join(f"  - {step.words}\n" for step in steps))
        if not options["yes"] and not _agreed():
            raise CommandError("nothing was changed")
        await self._take(steps)
        public_key = setup.public_key()
        if public_key and public_key != wanted.server_pub_key:
            self.stdout.write(
                f"Now set vpn.server_pub_key in {wanted.config_path}:\n  server_pub_key: {public_key}"
            )

    async def _take(self, steps: list[Step]) -> None:
        for step in steps:
            try:
                await step.do()
            except (SetupError, WireGuardError, rules.RulesError) as error:
                raise CommandError(
                    f"could not {step.words}\n{error}\nWhat was made stays: correct this and run the "
                    "command again, or undo it with --remove."
                ) from None
        self.stdout.write("Done.")

    async def _check(self, wanted: Wanted, options: dict[str, Any]) -> None:
        findings = await check(wanted)
        for finding in findings:
            self.stdout.write(f"{'WRONG' if finding.wrong else 'ok   '} {finding.words}")
        wrong = sum(finding.wrong for finding in findings)
        if wrong:
            raise CommandError(f"{wrong} of these {'has' if wrong == 1 else 'have'} to be put right")

    async def _rules(self, wanted: Wanted, options: dict[str, Any]) -> None:
        interface = options["interface"] or await self._interface(wanted)
        text = rules.exit_rules(interface, wanted.allowed_ips, wanted.dns)
        if options["remove"]:
            text = rules.without(rules.exit_table(interface))
        if options["apply"] or options["remove"]:
            await rules.apply(text)
        else:
            self.stdout.write(text)

    async def _interface(self, wanted: Wanted) -> str:
        state = read_state(wanted)
        if state and wanted.server_pub_key in ("", state.public_key):
            return state.interface
        interface = await WireGuard(wanted.binary_path).interface_of(wanted.server_pub_key)
        if interface is None:
            raise SetupError("no interface has vpn.server_pub_key; name one with --interface")
        return interface


def _agreed() -> bool:
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
