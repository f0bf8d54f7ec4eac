"""Reading the database's figures so that no scrape can hang, and none can hurt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog
from prometheus_client.core import Metric
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.metrics.families import Values, gauge
from relay.metrics.figures import Group
from relay.store import status
from relay.store.engine import Database

_log: Final = structlog.get_logger("relay.metrics")

_CLOSE_SECONDS: Final = 1.0

_UP: Final = gauge("relay_database_up", "Whether the database answered in time.")
_READ: Final = gauge(
    "relay_database_figures_up", "Whether the figures of a group could be read.", "group"
)
_TOOK: Final = gauge(
    "relay_database_figures_seconds", "Time that it took to read them the last time.", "group"
)
_IN_USE: Final = gauge("relay_database_connections_in_use", "Connections that are held.")
_LIMIT: Final = gauge("relay_database_connections_limit", "Connections that there may be.")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What reading may cost; times in seconds.

    A group rests after it was read, ``rest`` times as long as that took. Counting a queue of 4
    million rows takes a second of PostgreSQL: so it does that every 20 s, for each process.
    """

    deadline: float = 5.0
    """The longest that a scrape waits for the database."""
    statement: float = 3.0
    """After this the server gives a statement up, and its group is missing."""
    fresh: float = 5.0
    """For so long what was read is shown again."""
    rest: float = 20.0
    failed: float = 60.0
    """A group that failed rests for so long: the server logs every refusal."""


class _Reading:
    """A group's last values; none while they are unknown."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.values: Sequence[Values] | None = None
        self.due = 0.0
        self.seconds: float | None = None
        self.told: str | None = None


class DatabaseFigures:
    """The groups' figures as they were some seconds ago, however many ask at once."""

    def __init__(
        self, database: Database, groups: Sequence[Group], bounds: Bounds | None = None
    ) -> None:
        self._database = database
        self._bounds = bounds or Bounds()
        self._readings = [_Reading(group) for group in groups]
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0
        self._due = 0.0
        self._up = False

    async def collect(self) -> list[Metric]:
        """Never later than the deadline, and without a figure that is unknown."""
        await self._refresh()
        metrics = [_UP.filled(self._up)]
        for each in self._readings:
            values = each.values if self._up else None
            for place, family in enumerate(each.group.families):
                metrics.append(family.filled(None if values is None else values[place]))
        names = [(each.group.name,) for each in self._readings]
        read = [self._up and each.values is not None for each in self._readings]
        took = [each.seconds for each in self._readings]
        in_use, limit = self._database.in_use
        return [
            *metrics,
            _READ.filled(zip(names, read, strict=True)),
            _TOOK.filled(zip(names, took, strict=True)),
            _IN_USE.filled(in_use),
            _LIMIT.filled(limit),
        ]

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None:
            if loop.time() < self._due:
                return
            self._began = loop.time()
            self._task = asyncio.create_task(self._read(), name="relay-metrics")
        left = self._began + self._bounds.deadline - loop.time()
        await asyncio.wait({self._task}, timeout=max(left, 0.0))
        if self._task is not None:
            self._up = False  # it goes on, until its connection is cut

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._database.begin(self._bounds.deadline) as connection:
                await status.bound_statements(connection, self._bounds.statement)
                for reading in self._readings:
                    if loop.time() >= reading.due:
                        await self._read_group(connection, reading)
        except Exception as error:
            self._up = False
            _log.debug("metrics.database_away", error=type(error).__name__)
        else:
            self._up = True
        finally:
            self._due = loop.time() + self._bounds.fresh
            self._task = None

    async def _read_group(self, connection: AsyncConnection, reading: _Reading) -> None:
        """A group that fails (a right that the role does not have, a time-out) fails alone."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with connection.begin_nested():
                reading.values = await reading.group.read(connection)
            reading.told = None
        except Exception as error:
            reading.values = None
            if connection.invalidated:
                raise
            self._tell(reading, error)
        reading.seconds = loop.time() - began
        rest = self._bounds.fresh if reading.told is None else self._bounds.failed
        reading.due = loop.time() + max(rest, reading.seconds * self._bounds.rest)

    def _tell(self, reading: _Reading, error: BaseException) -> None:
        # The driver's own error, of which SQLAlchemy makes two more; its text may quote anything.
        cause = getattr(error, "orig", None) or error
        reason = type(cause.__cause__ or cause).__name__
        if reason != reading.told:
            reading.told = reason
            _log.warning("metrics.figures_missing", group=reading.group.name, error=reason)

    async def close(self) -> None:
        """Give up a reading that does not end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
