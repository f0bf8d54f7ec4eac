"""The way to PostgreSQL: one pool for SQLAlchemy and for raw asyncpg on the hot paths.

Connections are made by asyncpg itself from a libpq URL, because SQLAlchemy's URL knows neither
several hosts nor ``target_session_attrs``; and to one host after the other by ourselves, because
asyncpg has one time-out for them all, which a dead first one uses up.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal, cast

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import QueuePool

from relay.core.errors import ConfigError
from relay.settings import postgres
from relay.settings.postgres import Liveness

# What a pool may open beyond its size when all are busy.
MAX_OVERFLOW = 5

# What one operating system error means here: the server is away, not that the statement was wrong.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # also: ended between two messages; no host takes writes
    asyncpg.OperatorInterventionError,  # 57P01 admin shutdown, 57P02 crash, 57P03 starting up
    asyncpg.InsufficientResourcesError,  # 53xxx: disk full, out of memory, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # 25006: this host is a standby since a failover
    asyncpg.exceptions.PostgresSystemError,  # 58xxx: I/O error on the server
    asyncpg.TransactionRollbackError,  # 40xxx: deadlock, serialisation
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidTransactionStateError,  # 25xxx: e.g. idle-in-transaction time-out
)


READ_COMMITTED: Literal["read_committed"] = "read_committed"
"""For ``pg.transaction(isolation=…)``, which otherwise is what the server's default says."""
FOR_EVER: Final = math.inf
"""For whoever keeps a connection and cuts it by himself."""


# Of these the next host is asked; a wrong password is wrong everywhere.
_NEXT_HOST: Final = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


def _class_with(liveness: Liveness) -> type[asyncpg.Connection]:
    """Connections that the kernel ends when their peer is silent (a black hole, a dead host)."""

    class Watched(asyncpg.Connection):
        def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
            super().__init__(protocol, transport, *rest)
            sock: socket.socket | None = transport.get_extra_info("socket")
            if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
                return
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, liveness.keepalive)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, liveness.idle_seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, liveness.interval_seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, liveness.count)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, liveness.user_timeout_ms)

    return Watched


class Database:
    """A pool of PostgreSQL connections.

    ``dsn`` is a libpq URL (``postgresql://user:password@host1,host2/name?…``), see
    ``relay.settings.postgres``. With several hosts the one that accepts writes is taken.
    ``patience_seconds`` is how long a transaction may take, unless it says otherwise, before its
    connection is cut; None leaves that to whoever sits in front of it.
    Raises ConfigError when the URL says what cannot be done.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pool_size: int = 10,
        application_name: str = "relay",
        patience_seconds: float | None = None,
    ) -> None:
        self.dsn = dsn
        try:
            self._route = postgres.route(dsn)
        except ValueError as error:
            name = "RELAY_DATABASE_URL"
            raise ConfigError(f"{name} {error}", setting=name) from None
        self._class = _class_with(self._route.liveness)
        self._first = 0  # the host to begin with
        self._patience_seconds = patience_seconds
        self._application_name = application_name
        self._pooled: bool | None = None
        self._most = pool_size + MAX_OVERFLOW
        self.engine = create_async_engine(
            "postgresql+asyncpg://",
            # A logged error must not repeat bodies and secrets.
            hide_parameters=True,
            # Stated, whatever the server's default is: who has waited for a lock must see what was
            # committed meanwhile.
            isolation_level="READ COMMITTED",
            pool_size=pool_size,
            max_overflow=MAX_OVERFLOW,
            pool_timeout=10,
            pool_recycle=1800,
            connect_args={
                "async_creator_fn": self._connect,
                # Unnamed statements: what a pooler in transaction mode can carry.
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
            },
        )
        event.listen(self.engine.sync_engine, "handle_error", _drop_standby)

    @property
    def has_several_hosts(self) -> bool:
        """Whether a failover is foreseen."""
        return self._route.has_several_hosts

    async def _connect(self) -> asyncpg.Connection:
        # Named prepared statements do not survive a pooler in transaction mode.
        return await self._open(statement_cache_size=0 if await self.is_pooled() else 100)

    async def _open(self, statement_cache_size: int) -> asyncpg.Connection:
        """A connection to the host that worked last, or else to the next one that does.

        A host that failed, or that the caller had no more patience with, is not the first to be
        asked the next time: what is left of a dead one may be a black hole.
        """
        hosts = self._route.hosts
        if not hosts:
            return await self._open_at({}, statement_cache_size)
        missed: Exception | None = None
        for number in [(self._first + step) % len(hosts) for step in range(len(hosts))]:
            host, port = hosts[number]
            try:
                connection = await self._open_at({"host": host, "port": port}, statement_cache_size)
            except BaseException as error:
                if self._first == number:
                    self._first = (number + 1) % len(hosts)
                if not isinstance(error, _NEXT_HOST):
                    raise
                # That one of them is a standby is no news while another one is away.
                if not isinstance(error, asyncpg.TargetServerAttributeNotMatched) or not missed:
                    missed = error
            else:
                self._first = number
                return connection
        assert missed is not None
        raise missed

    async def _open_at(
        self, place: dict[str, Any], statement_cache_size: int
    ) -> asyncpg.Connection:
        try:
            return await asyncpg.connect(
                self._route.url,
                **place,
                connection_class=self._class,
                timeout=self._route.connect_seconds,
                statement_cache_size=statement_cache_size,
                server_settings={"application_name": self._application_name},
            )
        except asyncpg.ConnectionDoesNotExistError as error:
            raise ConnectionAbortedError("ended by the server before the login") from error

    async def is_pooled(self) -> bool:
        """Whether a pooler, such as PgBouncer, stands between us and the server.

        It hands out a process id of its own invention at connect time, which differs from the one
        that the server itself tells.
        """
        if self._pooled is None:
            connection = await self._open(statement_cache_size=0)
            ends = asyncio.get_running_loop().time() + self._route.connect_seconds
            with _cut_at(ends, connection.terminate):
                try:
                    told = await connection.fetchval("SELECT pg_backend_pid()")
                    self._pooled = told != connection.get_server_pid()
                finally:
                    await connection.close()
        return self._pooled

    async def backend_pid(self, pg: asyncpg.Connection) -> int:
        """The process id of the backend that runs the present transaction of ``pg``."""
        if not await self.is_pooled():
            return pg.get_server_pid()
        told: int = await pg.fetchval("SELECT pg_backend_pid()")
        return told

    @asynccontextmanager
    async def begin(self, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """A transaction on a pooled connection: committed at the end, rolled back on an error.

        After ``seconds`` (see ``patience_seconds``) the connection is cut, which fails whatever
        waits for an answer on it. It is cut and not cancelled: PostgreSQL answers the cancelling
        of a COMMIT that waits for its standby with success.
        """
        async with self._checked_out(seconds) as (pooled, _), pooled.begin():
            yield pooled

    @asynccontextmanager
    async def driver(self, seconds: float | None = None) -> AsyncIterator[asyncpg.Connection]:
        """A raw asyncpg connection from the pool, for the statements where microseconds count.

        The caller opens and ends its own transactions, see ``READ_COMMITTED``. A connection that
        is left in the middle of one, or that an error passed through, is closed and not given back.
        ``seconds`` are as with ``begin``.
        """
        async with self._checked_out(seconds) as (pooled, connection):
            try:
                yield connection
            except BaseException as error:
                await pooled.invalidate()
                connection.terminate()
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    await self.discard_pool()
                raise
            if connection.is_closed() or connection.is_in_transaction():
                await pooled.invalidate()
                connection.terminate()

    @asynccontextmanager
    async def _checked_out(
        self, seconds: float | None
    ) -> AsyncIterator[tuple[AsyncConnection, asyncpg.Connection]]:
        limit = self._patience_seconds if seconds is None else seconds
        ends = None
        if limit is not None and limit != FOR_EVER:
            ends = asyncio.get_running_loop().time() + limit
        async with asyncio.timeout_at(ends):  # nothing has been asked yet: this may be cancelled
            pooled = await self.engine.connect()
        raw = await pooled.get_raw_connection()
        connection = cast("asyncpg.Connection", raw.driver_connection)
        with _cut_at(ends, connection.terminate):
            try:
                yield pooled, connection
            finally:
                await asyncio.shield(pooled.close())

    @property
    def in_use(self) -> tuple[int, int]:
        """Connections that somebody holds now, and how many there may be."""
        return cast("QueuePool", self.engine.pool).checkedout(), self._most

    async def discard_pool(self) -> None:
        """Forget every pooled connection, e.g. after a failover made their host read-only."""
        await self.engine.dispose()

    async def close(self) -> None:
        await self.engine.dispose()


@contextmanager
def _cut_at(ends: float | None, cut: Callable[[], None]) -> Iterator[None]:
    """``ends`` is on the loop's clock."""
    if ends is None:
        yield
        return
    timer = asyncio.get_running_loop().call_at(ends, cut)
    try:
        yield
    finally:
        timer.cancel()


async def driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    """The raw connection below, in the same transaction."""
    return cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)


def _drop_standby(context: ExceptionContext) -> None:
    """The host takes no writes since a failover, and so it is for all pooled connections."""
    error = getattr(context.original_exception, "__cause__", None)
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True


__all__ = ["FOR_EVER", "READ_COMMITTED", "UNAVAILABLE", "Database"]
