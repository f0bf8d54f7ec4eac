"""Group commit: what arrives at the same time is stored in one transaction.

There is no timer. Each of two dedicated connections stores whatever has queued whenever it is
free, and every caller is answered after its own COMMIT. `benchmarks/receiver.py` holds it against a
transaction per request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NoReturn

import asyncpg
import msgspec
import structlog

from relay.core.errors import RelayError
from relay.receiver.counters import Counters
from relay.store import durability, inbox
from relay.store.engine import FOR_EVER, Database
from relay.store.inbox import NewEvent
from relay.store.trouble import explain

log: Final = structlog.get_logger("relay.receiver")

# One round trip. Stated, whatever the server's defaults are: the promise of a 2xx hangs on it.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on"

_TRIES: Final = 5
_CUT_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.5
_REPORT_SECONDS: Final = 5.0
_BYTES_PER_SECOND: Final = 4_194_304
"""What even a slow database takes in: a large batch gets its time in addition."""

# The same batch again may succeed: a deadlock or serialisation failure, or a plan from before a
# migration, which asyncpg forgets with this error.
_REPEATABLE: Final = (
    asyncpg.TransactionRollbackError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)


class CannotStoreError(RelayError):
    """Nothing can be stored now; the sender has to try again later."""

    default_code = "unavailable"


class UnstorableRowError(RelayError):
    """PostgreSQL refuses this row, alone and for what is in it."""

    default_code = "unstorable"


class _EndedWhileIdleError(Exception):
    """The server has ended the connection before anything of the transaction was sent."""


class _NotDurableError(Exception):
    """COMMIT returned, but not with what a durable commit returns."""


class Committing(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of the group commit; times in seconds."""

    connections: int = 2
    max_rows: int = 500
    max_bytes: int = 33_554_432
    """Of the bodies of one transaction; one row is always taken."""
    transaction_seconds: float = 10.0
    """After this, and some more for large bodies, a transaction's connection is cut."""
    patience_seconds: float = 10.0
    """A row that could not be begun with in this time is refused: its sender has gone."""


class _Waiting:
    """A row and the request that waits for it."""

    __slots__ = ("event", "future", "since")

    def __init__(self, event: NewEvent, future: asyncio.Future[bool], since: float) -> None:
        self.event = event
        self.future = future
        self.since = since

    def stored(self, fresh: bool) -> None:
        if not self.future.done():  # its request may have been cancelled meanwhile
            self.future.set_result(fresh)

    def failed(self, error: RelayError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit:
    """Stores rows for many requests at once; `start` before the first, `stop` after the last."""

    def __init__(
        self, database: Database, counters: Counters, settings: Committing | None = None
    ) -> None:
        self._database = database
        self._counters = counters
        self._settings = settings or Committing()
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[asyncpg.Connection] = set()
        self._connected = 0
        self._has_cut = False
        self._quiet_until = 0.0

    def start(self) -> None:
        self._stopping = False
        self._tasks = [
            asyncio.create_task(self._work(), name=f"relay-commit-{number}")
            for number in range(self._settings.connections)
        ]

    async def stop(self, seconds: float) -> None:
        """Stores what has queued, for at most `seconds`; what is left then is refused."""
        self._stopping = True
        self._filled.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            self._fail_queued()
            for connection in self._busy:
                connection.terminate()
            if late:
                _, late = await asyncio.wait(late, timeout=_CUT_SECONDS)
            for connecting in late:
                connecting.cancel()
        self._tasks = []

    async def put(self, event: NewEvent) -> bool:
        """Waits until the event is durably stored; False when the inbox held it already.

        Raises CannotStoreError, after which it may be stored nevertheless (its answer was lost),
        and UnstorableRowError. Cancelling the caller does not cancel the transaction.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._stopping or self.is_behind(now):
            raise CannotStoreError
        future: asyncio.Future[bool] = loop.create_future()
        self._queue.append(_Waiting(event, future, now))
        self._filled.set()
        return await future

    @property
    def queued(self) -> int:
        """Rows that wait for a connection now."""
        return len(self._queue)

    def is_behind(self, now: float) -> bool:
        """Whether rows wait so long already that another one had better not be begun with."""
        return bool(self._queue) and (
            now - self._queue[0].since > self._settings.patience_seconds / 2
        )

    async def _work(self) -> None:
        """One dedicated connection, replaced whenever it breaks."""
        while await self._has_work():
            try:
                async with self._database.driver(FOR_EVER) as pg:
                    await self._work_on(pg)
            except CannotStoreError:
                pass  # its rows are answered, and the connection is gone
            except Exception as error:
                self._report("receiver.database_unavailable", error)
                if self._connected:
                    # Out of connections, perhaps: the others do the work, and this one waits.
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    self._fail_queued()

    async def _work_on(self, pg: asyncpg.Connection) -> None:
        session = _Session(pg, self._settings.transaction_seconds, self._counters)
        if self._has_cut and await session.is_stalled():
            # What we have cut still waits there for the standby: more of it would only use up the
            # connections of the server.
            self._report("receiver.standby_silent", CannotStoreError())
            self._fail_queued()
            await asyncio.sleep(_RETRY_SECONDS)
            return
        self._has_cut = False
        pg.add_log_listener(session.note_message)
        self._connected += 1
        try:
            # Closed while it was idle: nothing is lost, and the pool has another one.
            while await self._has_work() and not pg.is_closed():
                self._busy.add(pg)
                await self._store(session, self._take_batch())
                self._busy.discard(pg)
        finally:
            self._has_cut |= session.has_cut
            self._connected -= 1
            self._busy.discard(pg)
            pg.remove_log_listener(session.note_message)

    async def _has_work(self) -> bool:
        while not self._queue and not self._stopping:
            self._filled.clear()
            await self._filled.wait()
        return bool(self._queue)

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        oldest = asyncio.get_running_loop().time() - self._settings.patience_seconds
        while self._queue and len(batch) < self._settings.max_rows:
            waiting = self._queue[0]
            if batch and size + len(waiting.event.body) > self._settings.max_bytes:
                break
            self._queue.popleft()
            if waiting.since < oldest:
                waiting.failed(CannotStoreError())
            else:
                batch.append(waiting)
                size += len(waiting.event.body)
        return batch

    def _fail_queued(self) -> None:
        while self._queue:
            self._queue.popleft().failed(CannotStoreError())

    async def _store(self, session: _Session, batch: list[_Waiting]) -> None:
        """Answers every row of the batch. Raises CannotStoreError when the connection is bad."""
        if not batch:
            return
        try:
            fresh = await session.commit([waiting.event for waiting in batch])
        except _EndedWhileIdleError as error:
            # Another connection takes the rows, as long as somebody waits for them.
            self._queue.extendleft(reversed(batch))
            raise CannotStoreError from error
        except Exception as error:
            if not _is_fault_of_a_row(error):
                await self._give_up(batch, error)
            if len(batch) == 1:
                log.error("receiver.row_refused", error=_describe(error))
                batch[0].failed(UnstorableRowError())
                return
        else:
            for waiting, is_fresh in zip(batch, fresh, strict=True):
                waiting.stored(is_fresh)
            return
        # One bad row must not fail its neighbours.
        for at, waiting in enumerate(batch):
            try:
                await self._store(session, [waiting])
            except CannotStoreError as error:
                for rest in batch[at:]:
                    rest.failed(error)
                raise

    async def _give_up(self, batch: list[_Waiting], error: Exception) -> NoReturn:
        self._counters.batches_failed += 1
        self._report("receiver.batch_failed", error)
        refusal = CannotStoreError()
        for waiting in batch:
            waiting.failed(refusal)
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # The host is a standby since a failover, and so it is for the idle connections.
            await self._database.discard_pool()
        raise refusal from error

    def _report(self, event: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:  # an outage is one piece of news, not a thousand
            self._quiet_until = now + _REPORT_SECONDS
            log.warning(event, error=_describe(error), reason=explain(error))


class _Session:
    """Transactions on one dedicated connection.

    Nothing in here may be awaited under a time-out or be cancelled: asyncpg then sends a cancel
    request, and a COMMIT that waits for a standby answers that with success. The connection is
    cut instead, and the outcome stays unknown.
    """

    def __init__(self, pg: asyncpg.Connection, seconds: float, counters: Counters) -> None:
        self._pg = pg
        self._seconds = seconds
        self._counters = counters
        self._warnings = 0
        self.has_cut = False

    async def is_stalled(self) -> bool:
        """Whether commits of ours wait for a standby for longer than they should."""
        watchdog = asyncio.get_running_loop().call_later(self._seconds, self._pg.terminate)
        try:
            return await durability.is_stalled(self._pg, self._seconds / 2)
        finally:
            watchdog.cancel()

    def _cut(self) -> None:
        self.has_cut = True
        self._pg.terminate()

    async def commit(self, events: Sequence[NewEvent]) -> list[bool]:
        """Stores the events in one transaction, repeated where a repeat can help.

        Whatever it raises, nothing is certain; after a fault of a row the connection is good.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        seconds = self._seconds + sum(len(event.body) for event in events) / _BYTES_PER_SECOND
        watchdog = loop.call_later(seconds, self._cut)
        try:
            fresh = await self._repeat(events)
        except Exception as error:
            if _is_fault_of_a_row(error):
                await self._pg.execute("ROLLBACK")
            raise
        finally:
            watchdog.cancel()
        self._counters.count_commit(fresh, loop.time() - began)
        return fresh

    async def _repeat(self, events: Sequence[NewEvent]) -> list[bool]:
        for _ in range(_TRIES - 1):
            try:
                return await self._attempt(events)
            except _REPEATABLE:
                self._counters.batches_retried += 1
                await self._pg.execute("ROLLBACK")
        return await self._attempt(events)

    async def _attempt(self, events: Sequence[NewEvent]) -> list[bool]:
        try:
            await self._pg.execute(_BEGIN)
        except asyncpg.InternalClientError as error:
            # It has said so, and its end of the connection is about to be closed.
            raise _EndedWhileIdleError from error
        fresh = await inbox.put(self._pg, events)
        if not all(fresh):
            await durability.write_mark(self._pg)
        warnings = self._warnings
        done = await self._pg.execute("COMMIT")
        # A failed transaction ends with ROLLBACK, and without an error; a wait for the standby
        # that somebody cancelled ends with a warning.
        if done != "COMMIT" or self._warnings != warnings:
            raise _NotDurableError
        return fresh

    def note_message(self, connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """The connection's log listener; asyncpg calls it before the statement returns."""
        self._warnings += message.severity_en == "WARNING"


def _is_fault_of_a_row(error: Exception) -> bool:
    """Whether what is in the rows made it fail, so that other rows may still be stored."""
    if isinstance(error, asyncpg.PostgresError):
        # 22 data exception, 23 constraint, 54 program limit (an index entry that is too long).
        return (error.sqlstate or "")[:2] in ("22", "23", "54")
    # What asyncpg cannot encode.
    return isinstance(error, ValueError | TypeError | OverflowError)


def _describe(error: BaseException) -> str:
    """Without the message: it may quote the row."""
    sqlstate = getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({sqlstate})" if sqlstate else type(error).__name__
