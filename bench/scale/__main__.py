"""./impervious scale: thousands of websocket clients on two daphnes; one is killed, one restarted. Does anyone miss anything?"""

import argparse
import asyncio
import signal
import sys
import tempfile
from pathlib import Path

from bench import machine
from bench.scale.run import MOST_LAG_MS, Plan, Result, scale

RATES = (1, 2, 4, 8, 16, 32)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./impervious scale", description=__doc__)
    parser.add_argument("--clients", type=int, default=5_000, metavar="N", help="websocket clients (5000)")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="time of each rate (20)")
    options = parser.parse_args()
    machine.raise_file_limit()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    print(machine.describe(), "\n", flush=True)
    plan = Plan(clients=options.clients, rates=RATES, seconds=options.seconds)
    try:
        with tempfile.TemporaryDirectory(prefix="impervious-scale-") as directory:
            result = asyncio.run(scale(Path(directory), plan, say=lambda line: print(line, flush=True)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print("\n" + table(result), flush=True)
    return 0 if result.good else 1


def table(result: Result) -> str:
    """The figures as Markdown."""
    parts = list(result.memory_mb)
    lines = [
        f"| {result.clients:,} clients | deliveries/s | lag p50, ms | p99, ms | "
        + " | ".join(f"{part}, cores" for part in parts)
        + " |",
        "| --- " * (4 + len(parts)) + "|",
    ]
    for step in result.steps:
        figures = [
            f"{step.deliveries_per_second:,.0f}",
            f"{step.lag_ms(0.5):.0f}",
            f"{step.lag_ms(0.99):,.0f}",
        ]
        lines.append(
            f"| {step.name} | "
            + " | ".join([*figures, *(f"{step.cores[part]:.2f}" for part in parts)])
            + " |"
        )
    lines += [
        "",
        f"held (p99 within {MOST_LAG_MS:,} ms): {result.held.name if result.held else 'none'}",
        "memory, MB: "
        + ", ".join(f"{part} {megabytes:,.0f}" for part, megabytes in result.memory_mb.items()),
        f"all were connected after {result.connect_seconds:.1f} s",
        *(
            f"{name}: {count:,} clients cut off, all back after {seconds:.1f} s"
            for name, count, seconds in result.returns
        ),
        f"why clients were cut off or refused: {dict(result.causes)}",
        (
            f"{result.messages:,} messages, {result.deliveries:,} deliveries; "
            f"clients with every message once and in order: {result.exact:,} of {result.clients:,}"
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
