"""The simulated network as a program.

python -m lightning.simulator --dir DIR [--base-port N] [--topology T] NAME…
"""

import argparse
import asyncio
import sys
from pathlib import Path

from lightning.simulator import program
from lightning.simulator.config_file import BASE_PORT


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lightning.simulator", description=program.__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="nodes, for example alice bob carol")
    parser.add_argument("--dir", required=True, type=Path, help="where the network lives")
    parser.add_argument(
        "--base-port",
        type=int,
        default=BASE_PORT,
        help="the port of the first node's lnd (10001); all others move along",
    )
    parser.add_argument("--topology", choices=["chain", "full", "star", "none"], default="chain")
    parser.add_argument(
        "--port", action="append", default=[], metavar="NAME=PORT", type=_named_port, help="of one node"
    )
    parser.add_argument(
        "--private", action="append", default=[], metavar="NAME", help="only private channels"
    )
    options = parser.parse_args()
    try:
        asyncio.run(
            program.run(
                options.dir,
                options.names,
                base_port=options.base_port,
                topology=options.topology,
                node_ports=dict(options.port),
                private=options.private,
            )
        )
    except (OSError, ValueError) as error:
        sys.exit(str(error))


def _named_port(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    return name, int(port)


if __name__ == "__main__":
    main()
