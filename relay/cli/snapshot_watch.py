"""`--watch`: the progress of a snapshot, a bar per resource, until it ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from relay.cli.output import say
from relay.display import duration, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from relay.store.engine import Database

_SECONDS = 0.5
_ENDS = ("finished", "failed", "cancelled", "paused")


async def watch(
    database: Database, snapshot_id: str, *, queue_rows: int, bars: bool
) -> dict[str, Any]:
    """The snapshot as it stands when it runs no more; ``bars`` has its progress written.

    On a terminal as bars, elsewhere as a line whenever a resource changes its state. Above
    ``queue_rows`` claimable events it waits for the forwarders.
    """
    from rich.console import Console

    from relay.store import ranges, snapshots

    console = Console()
    display = Bars(console) if bars and console.is_terminal else _Lines(silent=not bars)
    with display:
        while True:
            async with database.begin() as connection:
                found = await snapshots.show(connection, snapshot_id)
                rows = await snapshots.progress(connection, snapshot_id)
            async with database.driver() as pg:
                held_up = await ranges.has_claimable_work(pg, queue_rows)
            display.update([row | {"held_up": held_up} for row in rows])
            if found["state"] in _ENDS:
                return found
            await asyncio.sleep(_SECONDS)


class _Lines:
    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._states: dict[str, str] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            name, state = row["resource"], row["state"]
            if self._states.get(name) != state and not self._silent:
                error = f": {row['last_error']}" if state == "failed" else ""
                say(f"{name}: {state}, {row['objects']:,} objects, {row['pages']:,} pages{error}")
            self._states[name] = state


class Bars:
    """Objects, pages, rate, share of 429 and the time that is left; what is too long is cut."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[told]}", markup=False, table_column=rest),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, rows: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        for row in rows:
            name = row["resource"]
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(printable(name), total=None, told="")
                self._first[name] = now, row["objects"]
            since, objects_then = self._first[name]
            rate = (row["objects"] - objects_then) / max(now - since, 0.001)
            done, total = _bar(row)
            told = " · ".join(facts(row, rate))
            self._progress.update(
                self._tasks[name], total=total, completed=done, told=printable(told)
            )


def _bar(row: dict[str, Any]) -> tuple[float, float | None]:
    if row["state"] == "finished":
        return 1.0, 1.0
    if row["read_seconds"] is None:
        return 0.0, None
    return row["read_seconds"], max(row["read_seconds"] + row["unread_seconds"], 1.0)


def facts(row: dict[str, Any], rate: float) -> list[str]:
    """What there is to say of a resource that comes with so many objects a second."""
    told = [f"{row['objects']:,} objects", f"{row['pages']:,} pages"]
    if row["state"] != "running":
        is_failed = row["state"] == "failed" and row["last_error"]
        return [*told, row["state"], *([row["last_error"]] if is_failed else [])]
    told.append(f"{rate:,.0f}/s")
    if row["limited"]:
        told.append(f"{100 * row['limited'] / row['requests']:.0f} % limited")
    if row["read_seconds"] and rate:
        # As if the rest lay as densely in time as what was read.
        left = row["objects"] * row["unread_seconds"] / row["read_seconds"] / rate
        told.append(f"about {duration(left)} left")
    if row["waits_for"] or row["held_up"]:
        told.append(f"waits: {row['waits_for'] or 'the forwarders have to catch up'}")
    return told
