"""./impervious soak: kills nodes, lnds and Redis under traffic; is any message lost, doubled or paid twice?"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.soak import real_lnd
from bench.soak.hostile import flood
from bench.soak.run import Plan, soak


def main() -> int:
    options = _options()
    machine.raise_file_limit()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="impervious-soak-"))
    good = False
    try:
        good = asyncio.run(_run(directory, options))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if good:
            shutil.rmtree(directory)
        else:
            print(f"logs and databases are in {directory}", flush=True)
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./impervious soak", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=100, metavar="N", help="kill -9 of nodes, lnds and Redis (100)"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, metavar="M", help="the most that faults go on (60)"
    )
    seed = random.SystemRandom().randrange(10**9)
    parser.add_argument("--seed", type=int, default=seed, help="of the schedule (random)")
    parser.add_argument(
        "--long",
        action=argparse.BooleanOptionalAction,
        help="messages that need splitting (if the node accepts them)",
    )
    parser.add_argument(
        "--hostile", type=int, default=0, metavar="N", help="instead: N hostile payments to one node"
    )
    parser.add_argument(
        "--real-lnd",
        action="store_true",
        help="instead: kill the paying one of two real lnds until it holds dead payments (25 kills will do)",
    )
    parser.add_argument(
        "--dead-payment-seconds",
        type=int,
        default=120,
        metavar="S",
        help="with --real-lnd: after how long the node gives them up (120)",
    )
    return parser.parse_args()


async def _run(directory: Path, options: argparse.Namespace) -> bool:
    if options.hostile:
        result = await flood(directory, seed=options.seed, payments=options.hostile, say=_say)
        print(result.text(), flush=True)
        return result.verdict.good
    plan = Plan(seed=options.seed, kills=options.kills, minutes=options.minutes, long=options.long)
    if options.real_lnd:
        result = await real_lnd.soak(
            directory, plan, dead_payment_seconds=options.dead_payment_seconds, say=_say
        )
    else:
        result = await soak(directory, plan, say=_say)
    print(result.text(), flush=True)
    return result.verdict.good


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
