"""Ending the transactions of processes that froze while they held what others wait for."""

from __future__ import annotations

import asyncpg

_OPERATOR = (0x72656C61, 1)
OPERATOR_HOLDS_LANES = (
    "SELECT pg_advisory_xact_lock_shared({}, {}),"
    " set_config('idle_in_transaction_session_timeout', '60s', true)"
).format(*_OPERATOR)
"""Said by an operator's transaction before it locks lanes: it may wait for batch after batch, and
then settle a million events, and is not to be taken for a frozen forwarder. Should its own process
freeze, the server ends it."""


async def end_frozen(
    pg: asyncpg.Connection, table: str, frozen_seconds: float
) -> tuple[list[int], int]:
    """The backends that ``find_frozen`` finds, and how many of them were ended."""
    frozen = await find_frozen(pg, table, frozen_seconds)
    return frozen, sum([await _end_backend(pg, pid) for pid in frozen])


async def find_frozen(pg: asyncpg.Connection, table: str, frozen_seconds: float) -> list[int]:
    """The backends whose transactions have held rows of ``table`` for too long.

    Whoever locks a row holds a RowShareLock on the table, so this finds a frozen process in any
    state: idle, in mid-statement, or not reading its answer. The server's own time-outs see only
    the first. Operators are left alone, see ``OPERATOR_HOLDS_LANES``.
    """
    found = await pg.fetch(
        """
        SELECT DISTINCT a.pid
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.relation = $4::text::regclass AND l.mode = 'RowShareLock' AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND a.xact_start < clock_timestamp() - make_interval(secs => $1)
          AND a.pid <> pg_backend_pid()
          AND NOT EXISTS (SELECT FROM pg_locks o WHERE o.pid = l.pid AND o.locktype = 'advisory'
                          AND o.classid = $2 AND o.objid = $3 AND o.objsubid = 2)
        """,
        frozen_seconds,
        *_OPERATOR,
        table,
    )
    return [row["pid"] for row in found]


async def _end_backend(pg: asyncpg.Connection, pid: int) -> bool:
    """End a backend; False when it has ended already, or when it is not ours to end.

    That needs the same role, or ``pg_signal_backend``.
    """
    try:
        return bool(await pg.fetchval("SELECT pg_terminate_backend($1)", pid))
    except asyncpg.InsufficientPrivilegeError:
        return False
