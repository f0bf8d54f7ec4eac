"""Looking at processes from outside, and waiting for what they do."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path


def hold(script: str, argument: Path) -> tuple[subprocess.Popen[str], int]:
    """A Python process in a group of its own, and the number that it printed as its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(argument)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        return process, int(output.readline())


def running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    return _stat(pid)[:1] not in ([], ["Z"])


def waits(pid: int) -> bool:
    """Whether the main thread of the process sleeps in the kernel."""
    return _stat(pid)[:1] == ["S"]


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


async def eventually(
    condition: Callable[[], object] | Callable[[], Awaitable[object]], *, deadline: float = 30.0
) -> None:
    """Wait until the condition holds. Raises TimeoutError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        held = condition()
        if inspect.isawaitable(held):
            held = await held
        if held:
            return
        if time.monotonic() >= end:
            raise TimeoutError(f"not so after {deadline} s: {condition}")
        await asyncio.sleep(0.02)


def _stat(pid: int) -> list[str]:
    """State, parent and so on: what follows the name, which may hold blanks and parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
