"""The way to PostgreSQL: one pool for SQLAlchemy and for raw asyncpg on the hot paths.

Connections are made by asyncpg itself from a libpq URL, because asyncpg understands several hosts
and ``target_session_attrs`` and SQLAlchemy's URL does not.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

# Long enough for a busy server, short enough that a black hole is noticed while a client waits.
CONNECT_TIMEOUT_SECONDS = 5.0
# After this long without an answer the kernel gives a silent peer up, whatever state we are in.
TCP_USER_TIMEOUT_MS = 15_000

# What one operating system error means here: the server is away, not that the statement was wrong.
UNAVAILABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the connection between two of our messages
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


class _Connection(asyncpg.Connection):
    """Lets the kernel end a connection whose peer stays silent (a black hole, a frozen host)."""

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)


class Database:
    """A pool of PostgreSQL connections.

    ``dsn`` is a libpq URL (``postgresql://user:password@host1,host2/name?…``). With several hosts
    the one that accepts writes is taken, unless the URL says otherwise.
    """

    def __init__(self, dsn: str, *, pool_size: int = 10, application_name: str = "relay") -> None:
        self.dsn = with_write_target(dsn)
        self._application_name = application_name
        self._statement_cache_size: int | None = None
        self.engine = create_async_engine(
            "postgresql+asyncpg://",
            # A logged error must not repeat bodies and secrets.
            hide_parameters=True,
            # Stated, whatever the server's default is: who has waited for a lock must see what was
            # committed meanwhile.
            isolation_level="READ COMMITTED",
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=10,
            pool_recycle=1800,
            connect_args={
                "async_creator_fn": self._connect,
                # Unnamed statements: what a pooler in transaction mode can carry.
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
            },
        )

    async def _connect(self) -> asyncpg.Connection:
        if self._statement_cache_size is None:
            self._statement_cache_size = await self._detect_statement_cache_size()
        return await self._open(self._statement_cache_size)

    async def _open(self, statement_cache_size: int) -> asyncpg.Connection:
        return await asyncpg.connect(
            self.dsn,
            connection_class=_Connection,
            timeout=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=statement_cache_size,
            server_settings={"application_name": self._application_name},
        )

    async def _detect_statement_cache_size(self) -> int:
        """Named prepared statements do not survive a pooler in transaction mode.

        A pooler hands out a process id of its own invention at connect time, which differs from
        the one that the server itself tells.
        """
        connection = await self._open(0)
        try:
            told = await connection.fetchval("SELECT pg_backend_pid()")
            return 100 if told == connection.get_server_pid() else 0
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_SECONDS)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction on a pooled connection: committed at the end, rolled back on an error."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[asyncpg.Connection]:
        """A raw asyncpg connection from the pool, for the statements where microseconds count.

        The caller opens and ends its own transactions, see ``READ_COMMITTED``. A connection that
        is left in the middle of one, or that an error passed through, is closed and not given back.
        """
        async with self.engine.connect() as pooled:
            raw = await pooled.get_raw_connection()
            connection = cast("asyncpg.Connection", raw.driver_connection)
            try:
                yield connection
            except BaseException:
                await pooled.invalidate()
                connection.terminate()
                raise
            if connection.is_closed() or connection.is_in_transaction():
                await pooled.invalidate()
                connection.terminate()

    async def discard_pool(self) -> None:
        """Forget every pooled connection, e.g. after a failover made their host read-only."""
        await self.engine.dispose()

    async def close(self) -> None:
        await self.engine.dispose()


def has_several_hosts(dsn: str) -> bool:
    """Whether a libpq URL names more than one host, and so foresees a failover."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    return "," in parts.netloc.rpartition("@")[2] or "," in query.get("host", "")


def with_write_target(dsn: str) -> str:
    """With several hosts ask for the one that takes writes, unless the URL already chooses."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query))
    if not has_several_hosts(dsn) or "target_session_attrs" in query:
        return dsn
    query["target_session_attrs"] = "read-write"
    return urlunsplit(parts._replace(query=urlencode(query)))


__all__ = ["READ_COMMITTED", "UNAVAILABLE", "Database"]
