import asyncio
import sys
from pathlib import Path

from django.core.management.base import BaseCommand, CommandError

from nodeapi import partner


class Command(BaseCommand):
    help = (
        "Runs a simulated Lightning network whose nodes speak lnd's gRPC API, with a configuration for each."
    )
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("names", nargs="+", metavar="NAME", help="nodes, for example alice bob carol")
        parser.add_argument("--dir", required=True, type=Path, help="where the network lives")
        parser.add_argument(
            "--base-port",
            type=int,
            default=10001,
            help="the port of the first node's lnd; all others, of the nodes too, move along",
        )
        parser.add_argument("--topology", choices=["chain", "full", "star"], default="chain")
        parser.add_argument(
            "--echo", metavar="NAME", help="this node answers every message with the message itself"
        )
        parser.add_argument(
            "--vpn",
            metavar="NAME",
            help="this node, when it is started, sells VPN leases by a stand-in for wg: for trying, without root and tunnels",
        )
        parser.add_argument("--attached", action="store_true", help="end when standard input ends")

    def handle(self, *args, names, dir, base_port, topology, echo, vpn, attached, **options):
        for option, name in (("--echo", echo), ("--vpn", vpn)):
            if name and name not in names:
                raise CommandError(f"{option} {name}: is none of the nodes {', '.join(names)}")
        try:
            asyncio.run(
                partner.simulate(
                    dir.resolve(),
                    names,
                    base_port=base_port,
                    topology=topology,
                    echo=echo,
                    vpn=vpn,
                    attached=attached,
                )
            )
        except (OSError, ValueError) as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            sys.exit(0)
