"""Many batches at once in a process, or a single one that must be alone in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets ordinary batches in together, and a suspect of a crash only when no other is inside.

    If the process dies then, it is known which row was in flight.
    """

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._alone = False

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            if alone:
                self._alone = True
                try:
                    await self._changed.wait_for(lambda: self._inside == 0)
                except BaseException:
                    self._alone = False
                    self._changed.notify_all()
                    raise
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                if alone:
                    self._alone = False
                self._changed.notify_all()
