"""`--watch`: the progress of a snapshot, a bar per resource, until it ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from relay.cli.output import say
from relay.display import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from relay.store.engine import Database

_SECONDS = 0.5
_ENDS = ("finished", "failed", "cancelled", "paused")


async def watch(database: Database, snapshot_id: str, *, bars: bool) -> dict[str, Any]:
    """The snapshot as it stands when it runs no more; ``bars`` has its progress written.

    On a terminal as bars, elsewhere as a line whenever a resource changes its state.
    """
    from rich.console import Console

    from relay.store import snapshots

    display = _Bars() if bars and Console().is_terminal else _Lines(silent=not bars)
    with display:
        while True:
            async with database.begin() as connection:
                found = await snapshots.show(connection, snapshot_id)
                rows = await snapshots.progress(connection, snapshot_id)
            display.update(rows)
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


class _Bars:
    """Objects, pages, rate, share of 429 and the time that is left, by what was read of it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}")
        )
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[float, int, float]] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, rows: list[dict[str, Any]]) -> None:
        now = time.monotonic()
        for row in rows:
            name = row["resource"]
            total = row["window_seconds"] or None
            done = None if total is None else max(total - row["unread_seconds"], 0.0)
            if row["state"] == "finished":
                total = done = total or 1.0
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(printable(name), total=total, told="")
                self._first[name] = now, row["objects"], done or 0.0
            told = " · ".join(_facts(row, self._first[name], now, done, total))
            self._progress.update(
                self._tasks[name], total=total, completed=done or 0.0, told=printable(told)
            )


def _facts(
    row: dict[str, Any],
    first: tuple[float, int, float],
    now: float,
    done: float | None,
    total: float | None,
) -> list[str]:
    since, objects, done_at_first = first
    elapsed = max(now - since, 0.001)
    facts = [f"{row['objects']:,} objects", f"{row['pages']:,} pages"]
    if row["state"] != "running":
        return [*facts, row["state"], *([row["last_error"]] if row["last_error"] else [])]
    facts.append(f"{(row['objects'] - objects) / elapsed:,.0f}/s")
    if row["limited"]:
        facts.append(f"{100 * row['limited'] / row['requests']:.0f} % limited")
    if done is not None and total is not None and done > done_at_first:
        left = (total - done) * elapsed / (done - done_at_first)
        facts.append(f"about {left:,.0f} s left")
    if row["waits_for"]:
        facts.append(f"waits: {row['waits_for']}")
    return facts
