"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

import uvloop

from benchmarks import end_to_end, figures, forwarder, growth, memory, pages, receiver, snapshot
from benchmarks.parts import Options

PATHS: dict[str, Callable[[Options], Awaitable[None]]] = {
    "receiver": receiver.run,
    "forwarder": forwarder.run,
    "end-to-end": end_to_end.run,
    "growth": growth.run,
    "memory": memory.run,
    "snapshot": lambda options: snapshot.run(options.repetitions),
    "pages": pages.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("path", nargs="?", default="all", choices=[*PATHS, "all"])
    parser.add_argument("--repetitions", type=int, default=3, metavar="N")
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="times the events")
    parser.add_argument(
        "--settled", type=int, default=500_000, metavar="N", help="settled events, for growth"
    )
    parser.add_argument(
        "--stored", type=int, default=10_000_000, metavar="N", help="events, for pages"
    )
    parser.add_argument(
        "--data", metavar="DIRECTORY", help="keep the inbox of pages there for the next run"
    )
    parser.add_argument("--embedded", action="store_true", help="not Apache Kafka but Tansu")
    parser.add_argument("--profile", action="store_true", help="watch relay's processes by py-spy")
    arguments = vars(parser.parse_args())
    path = arguments.pop("path")
    try:
        for name, run in PATHS.items():
            if path in (name, "all"):
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(run(Options(**arguments)))
    finally:
        figures.print_table()


if __name__ == "__main__":
    main()
