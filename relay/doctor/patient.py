"""What is examined: the settings, and ways to PostgreSQL and Kafka that end in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Final, TypeVar, cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.kafka import Inspection
from relay.settings import Settings
from relay.store import server
from relay.store.engine import READ_COMMITTED, Database

T = TypeVar("T")

QUERY_SECONDS: Final = 5.0


class Patient:
    """Knows what it was asked before: several checks look at the same facts.

    ``complaints`` are the settings that could not be read; ``settings`` is made of the others.
    ``development``: they are those that `relay dev` left for other commands.
    """

    def __init__(
        self,
        settings: Settings,
        complaints: tuple[ConfigError, ...] = (),
        *,
        development: bool = False,
    ) -> None:
        self.settings = settings
        self.complaints = complaints
        self.development = development
        self._known: dict[object, Any] = {}

    @cached_property
    def database(self) -> Database:
        """Raises ConfigError when none is configured."""
        # Two connections, to see whether a pooler hands one and the same to both.
        url = self.settings.require_database_url()
        return Database(url, pool_size=2, application_name="relay-doctor")

    @cached_property
    def kafka(self) -> Inspection:
        """Raises ConfigError when none is configured, or when librdkafka refuses a property."""
        return Inspection(self.settings.require_kafka(), self.settings.kafka_properties)

    async def ask(self, question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What a function of the store answers, in a transaction of its own."""
        if question not in self._known:
            async with self.transaction() as connection:
                self._known[question] = await question(connection)
        return cast(T, self._known[question])

    async def recall(self, question: Callable[[Patient], Awaitable[T]]) -> T:
        """What a function that needs more than one of us answers, asked once."""
        if question not in self._known:
            self._known[question] = await question(self)
        return cast(T, self._known[question])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One that neither we nor the server let last."""
        async with self.database.begin(QUERY_SECONDS) as connection:
            await server.bound(connection, QUERY_SECONDS - 1)  # it says more than a cut does
            yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection of the driver in a transaction, for the functions that want one."""
        async with (
            self.database.driver(QUERY_SECONDS) as pg,
            pg.transaction(isolation=READ_COMMITTED),
        ):
            yield pg

    async def close(self) -> None:
        """Give back what was opened."""
        if "database" in self.__dict__:
            await self.database.close()
