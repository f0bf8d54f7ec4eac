"""What tells whether the server keeps up: its clock, what vacuum waits for, what it leaves."""

from __future__ import annotations

import time
from datetime import datetime

import msgspec
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

HOT_TABLES = ("queue", "event_key", "batch_note", "lane")
"""What every event passes through, and where dead rows would cost each claim."""

_CLOCK_SAMPLES = 3


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps vacuum from removing rows that died after it began.

    ``kind`` is ``session`` (its name is the pid), ``prepared transaction`` or ``replication slot``.
    ``age`` is in transactions; ``seconds`` is None where the server does not tell.
    """

    kind: str
    name: str
    role: str | None
    application_name: str | None
    state: str | None
    age: int | None
    seconds: float | None


class TableVacuum(msgspec.Struct, frozen=True):
    """What autovacuum does for one table."""

    table: str
    dead: int
    vacuumed_at: datetime | None
    enabled: bool


class Vacuum(msgspec.Struct, frozen=True):
    """Whether autovacuum runs, and what it does for our tables."""

    enabled: bool
    tables: tuple[TableVacuum, ...]


# A session that has neither read nor written yet holds nothing back, however long it is open. Of a
# slot that nobody reads PostgreSQL 17 and later tell since when.
_HOLDERS = """
    SELECT 'session' AS kind, pid::text AS name, usename::text AS role, application_name,
           state, xact_start AS held_since, greatest(age(backend_xmin), age(backend_xid)) AS age
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
      AND backend_type IS DISTINCT FROM 'autovacuum worker' -- null where it is not ours to see
    UNION ALL
    SELECT 'prepared transaction', gid, owner::text, NULL, NULL, prepared, age(transaction)
    FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT 'replication slot', slot_name::text, NULL, NULL,
           CASE WHEN active THEN 'active' ELSE 'inactive' END,
           CASE WHEN NOT active THEN (to_jsonb(s) ->> 'inactive_since')::timestamptz END, age(xmin)
    FROM pg_replication_slots s WHERE xmin IS NOT NULL
"""
_OLDEST_HOLDER = text(
    f"""
    SELECT extract(epoch FROM clock_timestamp() - min(held_since))::float8
    FROM ({_HOLDERS}) AS holders
    """  # noqa: S608 - made of constants of this module
)
_ALL_HOLDERS = text(
    f"""
    SELECT kind, name, role, application_name, state, age,
           extract(epoch FROM clock_timestamp() - held_since)::float8 AS seconds
    FROM ({_HOLDERS}) AS holders ORDER BY held_since NULLS LAST, age DESC LIMIT 100
    """  # noqa: S608 - made of constants of this module
)

_DEAD_TUPLES = text(
    """
    SELECT relname, n_dead_tup FROM pg_stat_all_tables
    WHERE schemaname = 'relay' AND relname IN :names
    """
).bindparams(bindparam("names", expanding=True))

# The partitions of inbox and receipt as well: without autovacuum their index-only scans go bad.
_VACUUM = text(
    """
    SELECT c.relname AS table, coalesce(s.n_dead_tup, 0) AS dead,
           greatest(s.last_autovacuum, s.last_vacuum) AS vacuumed_at,
           coalesce((SELECT option_value::boolean FROM pg_options_to_table(c.reloptions)
                     WHERE option_name = 'autovacuum_enabled'), true) AS enabled
    FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'relay')
      AND c.relkind = 'r'
    ORDER BY c.relname
    """
)
_VACUUM_SETTINGS = text(
    "SELECT current_setting('autovacuum')::boolean, current_setting('track_counts')::boolean"
)

_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


async def oldest_transaction_seconds(connection: AsyncConnection) -> float | None:
    """Age of the oldest open transaction in this database that holds back vacuum; None: no such.

    Transactions that are prepared and replication slots that nobody reads count as well. Of other
    roles' sessions the server tells only a role that may read all statistics (``pg_monitor``).
    """
    found: float | None = (await connection.execute(_OLDEST_HOLDER)).scalar_one()
    return found


async def holders(connection: AsyncConnection) -> list[Holder]:
    """Everything that holds back vacuum in this database, the oldest first."""
    rows = await connection.execute(_ALL_HOLDERS)
    return [Holder(**row._mapping) for row in rows]


async def dead_tuples(connection: AsyncConnection) -> dict[str, int]:
    """Dead rows of the ``HOT_TABLES`` that vacuum has not removed yet, as the server counts."""
    rows = await connection.execute(_DEAD_TUPLES, {"names": HOT_TABLES})
    return {row.relname: row.n_dead_tup for row in rows}


async def vacuum(connection: AsyncConnection) -> Vacuum:
    """Autovacuum, by the server's settings and by table."""
    enabled, counts = (await connection.execute(_VACUUM_SETTINGS)).one()
    tables = [TableVacuum(*row) for row in await connection.execute(_VACUUM)]
    return Vacuum(enabled and counts, tuple(tables))


async def clock_offset_seconds(connection: AsyncConnection) -> float:
    """How far PostgreSQL's clock is ahead of ours, half the round trip taken off."""
    samples: list[tuple[float, float]] = []
    for _ in range(_CLOCK_SAMPLES):
        sent = time.time()
        theirs = (await connection.execute(_CLOCK)).scalar_one()
        answered = time.time()
        samples.append((answered - sent, theirs - (sent + answered) / 2))
    # The quickest answer has the least room for a detour on one of its ways.
    return min(samples)[1]
