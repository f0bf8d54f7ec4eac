"""The numbers of the first page: read once for all who look, and None where one is not known."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin.desk import Desk
from relay.kafka import Kafka
from relay.store import snapshots, status, throughput
from relay.store.failures import DATABASE_FAILURES, is_outage
from relay.store.throughput import Written
from relay.store.trouble import cause_of, explain

SAMPLE_SECONDS: Final = 10.0
CHART_SECONDS: Final = 3600.0
_FRESH_SECONDS: Final = 4.0
# To count a queue of millions takes a second: it shall not be done all the time.
_REST: Final = 10.0
# What PostgreSQL says when it cannot be had: by a login, or on its way down or up.
_GOING: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,
)
_PAUSED: Final = ("running", "paused")

T = TypeVar("T")


class SourceFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What is unfinished of one source, and what stops it."""

    source: str
    id: str
    state: str
    pending: int
    retrying: int
    dead: int
    oldest_pending_seconds: float | None
    halted_code: str | None
    halted_error: str | None
    insecure: bool


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Why events wait that were tried before."""

    source: str
    code: str
    events: int
    error: str | None
    next_attempt_at: datetime | None


class Refused(msgspec.Struct, frozen=True):
    """Samples of requests with a bad signature that were kept in the last hour."""

    code: str
    samples: int


class Rejected(msgspec.Struct, frozen=True):
    """Requests that this process has not answered 2xx since it began, by reason."""

    status: int
    reason: str
    requests: int


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of process that is connected to the database."""

    name: str
    connections: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that is not at its end."""

    id: str
    source: str
    state: str
    resources: list[str]
    objects: int
    pages: int
    started_at: datetime
    last_error: str | None


class Rate(msgspec.Struct, frozen=True):
    """Between the last sample and ``at``, per second; None where the counters began anew."""

    at: datetime
    received: float | None
    sent: float | None


class Health(msgspec.Struct, frozen=True):
    """Whether something can be reached; None where this process does not know."""

    reachable: bool | None
    reason: str | None = None


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What is unfinished and what is wrong, as it was some seconds ago. None: not known."""

    at: datetime
    database: Health
    kafka: Health
    sources: list[SourceFigures] | None = None
    waiting: list[Waiting] | None = None
    refused: list[Refused] | None = None
    rejected: list[Rejected] | None = None
    services: list[Service] | None = None
    snapshots: list[Snapshot] | None = None
    throughput: list[Rate] = []

    def total(self, name: str) -> int | None:
        """The sum of a figure over all sources."""
        if self.sources is None:
            return None
        return sum(int(getattr(source, name)) for source in self.sources)

    @property
    def is_well(self) -> bool:
        """Whether it is known that nothing has failed."""
        return (
            bool(self.sources)
            and all(source.state != "halted" for source in self.sources or ())
            and self.total("dead") == self.total("retrying") == 0
            and self.database.reason is None
            and self.kafka.reachable is not False
            and self.services != []
        )

    @property
    def oldest_seconds(self) -> float | None:
        """Age of the oldest event that waits, in any source."""
        ages = [source.oldest_pending_seconds for source in self.sources or ()]
        return max((age for age in ages if age is not None), default=None)


class Watch:
    """Reads the overview, and takes samples of the throughput for its chart.

    ``kafka`` is there where this process forwards, and ``answers`` where it receives: how many
    requests were answered with a status and a word.
    """

    def __init__(
        self,
        desk: Desk,
        kafka: Kafka | None = None,
        answers: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        self._desk = desk
        self._kafka = kafka
        self._answers = answers
        self._rates: deque[Rate] = deque(maxlen=int(CHART_SECONDS / SAMPLE_SECONDS))
        self._last: tuple[float, Written] | None = None
        self._latest: Overview | None = None
        self._reading: asyncio.Task[Overview] | None = None
        self._due = 0.0

    async def run_once(self) -> int:
        """Take a sample of the throughput."""
        now = asyncio.get_running_loop().time()
        async with self._desk.inbox() as connection:
            written = await throughput.written(connection)
        last, self._last = self._last, (now, written)
        if last is not None:
            seconds = now - last[0]
            self._rates.append(
                Rate(
                    datetime.now(UTC),
                    _per_second(last[1].events, written.events, seconds),
                    _per_second(last[1].receipts, written.receipts, seconds),
                )
            )
        return 0

    async def overview(self) -> Overview:
        """At most some seconds old, however many ask."""
        loop = asyncio.get_running_loop()
        if self._latest is not None and loop.time() < self._due:
            return self._latest
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="relay-overview")
        return await asyncio.shield(self._reading)

    async def close(self) -> None:
        """Give up a reading that does not end."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read(self) -> Overview:
        loop = asyncio.get_running_loop()
        began = loop.time()
        sources = await self._part(status.lag)
        database = _health(sources)
        if not database.reachable:
            # Nothing else would be answered either, and each would take its time.
            found = Overview(at=datetime.now(UTC), database=database, kafka=self._of_kafka())
        else:
            found = Overview(
                at=datetime.now(UTC),
                database=database,
                kafka=self._of_kafka(),
                sources=None
                if isinstance(sources, BaseException)
                else [_source(row) for row in sources],
                waiting=_rows(await self._part(status.waiting_reasons), Waiting),
                refused=_rows(await self._part(throughput.refused), Refused),
                rejected=self._rejected(),
                services=await self._services(),
                snapshots=await self._snapshots(),
                throughput=self._recent(),
            )
        self._latest = found
        self._due = loop.time() + max(_FRESH_SECONDS, _REST * (loop.time() - began))
        return found

    async def _part(self, read: Callable[[AsyncConnection], Awaitable[T]]) -> T | BaseException:
        """One part in a transaction of its own: where it fails the others are still known."""
        try:
            async with self._desk.inbox() as connection:
                return await read(connection)
        except DATABASE_FAILURES as error:
            return error

    async def _services(self) -> list[Service] | None:
        try:
            # Behind a pooler only those that are in a transaction at this moment could be seen.
            if await self._desk.database.is_pooled():
                return None
        except DATABASE_FAILURES:
            return None
        return _rows(await self._part(status.services), Service)

    async def _snapshots(self) -> list[Snapshot] | None:
        found = await self._part(snapshots.list_snapshots)
        if isinstance(found, BaseException):
            return None
        return _rows([row for row in found if row["state"] in _PAUSED], Snapshot)

    def _rejected(self) -> list[Rejected] | None:
        if self._answers is None:
            return None
        found = [
            Rejected(status, word, requests)
            for (status, word), requests in self._answers.items()
            if status >= 400
        ]
        return sorted(found, key=lambda each: -each.requests)

    def _of_kafka(self) -> Health:
        if self._kafka is None:
            return Health(None)
        if self._kafka.is_down:
            return Health(False, self._kafka.trouble)
        return Health(True)

    def _recent(self) -> list[Rate]:
        since = datetime.now(UTC) - timedelta(seconds=CHART_SECONDS)
        return [rate for rate in self._rates if rate.at >= since]


def _health(lag: object) -> Health:
    """What the first look at the database says of it; ``lag`` may be the error that it ended in."""
    if not isinstance(lag, BaseException):
        return Health(True)
    cause = cause_of(lag)
    reason = explain(lag) or type(cause).__name__
    # To answer too late, or to refuse a question, is to be there.
    is_away = is_outage(lag) and not isinstance(cause, asyncpg.PostgresError)
    is_away = is_away or isinstance(cause, _GOING)
    return Health(not is_away, reason)


def _per_second(before: int, now: int, seconds: float) -> float | None:
    return (now - before) / seconds if now >= before and seconds > 0 else None


def _rows(found: Sequence[Mapping[str, Any]] | BaseException, struct: type[T]) -> list[T] | None:
    """The structs of rows, which may have more columns than that."""
    return None if isinstance(found, BaseException) else [msgspec.convert(r, struct) for r in found]


def _source(row: Mapping[str, Any]) -> SourceFigures:
    stopped = "halted" if row["halted_at"] else "paused" if row["paused_at"] else None
    return SourceFigures(
        source=row["source"],
        id=row["id"],
        state=stopped or "forwarding",
        pending=row["pending"],
        retrying=row["retrying"],
        dead=row["dead"],
        oldest_pending_seconds=row["oldest_pending_seconds"],
        halted_code=row["halted_code"],
        halted_error=row["halted_error"],
        insecure=row["insecure"],
    )
