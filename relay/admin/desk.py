"""What the pages and the API work with: the inbox, looked at so that nobody is kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin.answers import Refusal
from relay.store.engine import Database
from relay.store.status import bound_statements

_STATEMENT_SECONDS: Final = 3.0
_CUT_SECONDS: Final = 10.0
# The pool is that of the whole process: a dashboard that many look at must not take it from those
# who forward.
_AT_ONCE: Final = 3


class Desk:
    """Transactions of bounded time, few at once. ``hide_bodies``: nobody sees any."""

    def __init__(self, database: Database, *, hide_bodies: bool = False) -> None:
        self.hide_bodies = hide_bodies
        self.database = database
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._counting = asyncio.Lock()

    @asynccontextmanager
    async def inbox(
        self, statement_seconds: float = _STATEMENT_SECONDS
    ) -> AsyncIterator[AsyncConnection]:
        """A transaction in which every statement may take so long."""
        async with self._few, self.database.begin(_CUT_SECONDS) as connection:
            await bound_statements(connection, statement_seconds)
            yield connection

    @asynccontextmanager
    async def count(self, statement_seconds: float) -> AsyncIterator[AsyncConnection]:
        """The same for what may take long and only one at a time may ask. Raises Refusal (409)."""
        if self._counting.locked():
            raise Refusal(
                409, "Somebody has something counted at this moment: try again.", code="busy"
            )
        async with self._counting, self.inbox(statement_seconds) as connection:
            yield connection
