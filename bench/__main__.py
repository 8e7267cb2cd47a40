"""./impervious bench: what the node does, over a peer or a limit measured in the same run."""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from bench import (
    catchup,
    commits,
    connections,
    doors,
    fanout,
    joined,
    latency,
    machine,
    memory,
    relay,
    replay,
    stored,
    throughput,
    vpn,
    worlds,
)
from bench.report import Section
from bench.settings import DEFAULT, QUICK, Settings

ON_PAIRS = {"latency": latency.measure, "throughput": throughput.measure, "joined": joined.measure}
ALONE = {
    "doors": doors.measure,
    "fanout": fanout.measure,
    "memory": memory.measure,
    "stored": stored.measure,
    "catchup": catchup.measure,
    "replay": replay.measure,
    "relay": relay.measure,
    "commits": commits.measure,
    "vpn": vpn.measure,
    "connections": connections.measure,
}
NAMES = (*ON_PAIRS, *ALONE)


def main() -> int:
    options = _options()
    settings = QUICK if options.quick else DEFAULT
    if options.rounds:
        settings = replace(settings, rounds=options.rounds)
    machine.raise_file_limit()
    # asyncio.run cleans up after SIGINT, unless a shell has started us with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    print(machine.describe(), "\n", flush=True)
    try:
        return asyncio.run(_run(options.only or NAMES, settings))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./impervious bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each, under 90 seconds")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="NAME", help=f"only these: {', '.join(NAMES)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each comparison (3; quick: 1)")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


async def _run(names, settings: Settings) -> int:
    start, missed = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="impervious-bench-") as directory:
        neighbours = machine.Neighbours()
        async for section in _sections(Path(directory), names, settings):
            section.notes.append(f"other processes took {neighbours.cores():.2f} cores meanwhile")
            neighbours = machine.Neighbours()
            print(section.text(), flush=True)
            missed += [f"{section.title}: {row.name}" for row in section.rows if row.missed]
    print(f"{time.monotonic() - start:.0f} seconds in all. Targets missed: {len(missed)}")
    for line in missed:
        print(f"   {line}")
    return 0


async def _sections(directory: Path, names, settings: Settings) -> AsyncIterator[Section]:
    on_pairs = [measure for name, measure in ON_PAIRS.items() if name in names]
    for kind in ("simulator", "lnd") if on_pairs else ():
        if kind == "lnd" and not worlds.lnd_on_path():
            yield Section("a real lnd pair", notes=["not measured: lnd and btcd are not on PATH"])
            continue
        async with worlds.pair(directory / kind, kind) as pair:
            for measure in on_pairs:
                yield await measure(pair, kind, settings)
    for name, measure in ALONE.items():
        if name in names:
            room = directory / name
            room.mkdir()
            async for section in measure(room, settings):
                yield section


if __name__ == "__main__":
    sys.exit(main())
