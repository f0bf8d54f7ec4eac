"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import forwarder, receiver, snapshot

PATHS = {"receiver": receiver.run, "forwarder": forwarder.run, "snapshot": snapshot.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("path", choices=[*PATHS, "all"])
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    for name, run in PATHS.items():
        if arguments.path in (name, "all"):
            asyncio.run(run(arguments.repetitions))


if __name__ == "__main__":
    main()
