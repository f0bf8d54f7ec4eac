"""CPU seconds that processes have used, in steps of ten milliseconds, and memory: by /proc."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def of_process(pid: int) -> float:
    """User and system time of one process with all its threads."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS


def of_family(pid: int) -> float:
    """The same with its children, those that have ended included: a PostgreSQL by its postmaster.

    It never falls, since the time of a child that ends goes over to its parent. When one has ended
    meanwhile, all is read once more: it was seen in neither place.
    """
    while True:
        parent = _stat(pid)[11:15]
        ticks = sum(map(int, parent))
        for each in Path("/proc").glob("[0-9]*"):
            try:
                child = _stat(int(each.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if child[1] == str(pid):
                ticks += sum(map(int, child[11:15]))
        if _stat(pid)[13:15] == parent[2:]:
            return ticks / _TICKS


def memory_of(pid: int, kind: str = "VmHWM") -> float:
    """MB of memory that a process had at most, or has now (`VmRSS`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) * 1024 / 1e6


def _stat(pid: int) -> list[str]:
    """The fields behind the name, which may hold blanks and brackets: see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
