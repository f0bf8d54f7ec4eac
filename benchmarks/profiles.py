"""Where the time of a process goes, by py-spy."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks import peers
from benchmarks.figures import RESULTS

_LINES = 25


@contextmanager
def watch(pid: int, name: str, *, wanted: bool) -> Iterator[None]:
    """Sample what holds the interpreter's lock; the last run of a `name` is kept with the figures.

    `results/<name>.stacks` is what flame graphs are made of; our functions that were most often at
    work, with all that they call, and any by themselves go to `results/<name>.profile`.
    """
    if not wanted:
        yield
        return
    RESULTS.mkdir(exist_ok=True)
    stacks = RESULTS / f"{name}.stacks"
    command = [peers.tool("py-spy"), "record", "--pid", str(pid), "--format", "raw"]
    command += [
        "--rate",
        "200",
        "--duration",
        "3600",
        "--gil",
        "--function",
        "--output",
        str(stacks),
    ]
    sampling = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        sampling.send_signal(signal.SIGINT)
        sampling.wait(timeout=60)
    Console(stderr=True).print(_top(stacks), markup=False)


def _top(stacks: Path) -> str:
    own: Counter[str] = Counter()
    with_calls: Counter[str] = Counter()
    samples = 0
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        functions = stack.split(";")
        samples += int(count)
        own[functions[-1]] += int(count)
        for function in set(functions):
            if "(relay/" in function:
                with_calls[function] += int(count)
    lines = [f"{'all':>6} {'own':>6}  of {samples} samples"]
    for function, count in with_calls.most_common(_LINES):
        lines.append(f"{count / samples:6.1%} {own[function] / samples:6.1%}  {function}")
    lines += ["", f"{'own':>6}"]
    for function, count in own.most_common(_LINES):
        lines.append(f"{count / samples:6.1%}  {function}")
    table = "\n".join(lines)
    stacks.with_suffix(".profile").write_text(table + "\n")
    return table
