"""How far a long command is, on a terminal; and how to go on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from relay.cli.output import warn
from relay.display import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from relay.store.engine import Database


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; it is told how many of ``total`` are done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(printable(doing), total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def interruptible(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Say how to go on when this is left by Ctrl-C or by any error."""
    try:
        yield
    except BaseException:
        warn(f"interrupted: {how_to_go_on()}")
        raise


async def in_batches(
    database: Database,
    ids: Sequence[int],
    act: Callable[[AsyncConnection, Sequence[int]], Awaitable[int]],
    verb: str,
) -> int:
    """Do something with many, in transactions of bounded size; how many it was done with."""
    from relay.store.events import BATCH

    done = 0
    again = f"{{}} of {len(ids)} are done; the same command again goes on with the others"
    with interruptible(lambda: again.format(done)), progress(verb, len(ids)) as show:
        for start in range(0, len(ids), BATCH):
            async with database.begin() as connection:
                changed = await act(connection, ids[start : start + BATCH])
            done += changed
            show(start + BATCH)
    return done
