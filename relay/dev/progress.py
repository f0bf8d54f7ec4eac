"""How far a command is, on stderr: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

_EVERY_SECONDS: Final = 2.0
_NAME_WIDTH: Final = 10


class ProgressDisplay:
    """``show`` as often as you like: it writes only what can be read."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn(f"{{task.description:<{_NAME_WIDTH}}}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._written: dict[str, tuple[float, int, str]] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def show(self, name: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total``; ``note`` is what is being done."""
        if not self._console.is_terminal:
            self._write(name, done, total, note)
        elif name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, completed=done, total=total, note=note)
        else:
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _write(self, name: str, done: int, total: int, note: str) -> None:
        """A line at once for a new note and for the end, otherwise every two seconds."""
        at, last, said = self._written.get(name, (0.0, -1, ""))
        news = note != said or (done == total and last != total)
        if not news and (done == last or time.monotonic() - at < _EVERY_SECONDS):
            return
        self._written[name] = (time.monotonic(), done, note)
        line = f"{name:<{_NAME_WIDTH}} {done:,}/{total:,}  {note}"
        print(line.rstrip(), file=sys.stderr, flush=True)
