"""Facts about the server that tell whether it keeps up: its clock, what vacuum waits for."""

from __future__ import annotations

import time

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

HOT_TABLES = ("queue", "event_key", "batch_note", "lane")
"""What every event passes through, and where dead rows would cost each claim."""

_CLOCK_SAMPLES = 3

# A session that has neither read nor written yet holds nothing back, however long it is open. The
# same of a slot: PostgreSQL 17 and later tell since when nobody reads it.
_OLDEST_HOLDER = text(
    """
    SELECT extract(epoch FROM clock_timestamp() - min(held_since))::float8
    FROM (
        SELECT xact_start FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
        UNION ALL
        SELECT prepared FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL
        SELECT (to_jsonb(s) ->> 'inactive_since')::timestamptz
        FROM pg_replication_slots s WHERE s.xmin IS NOT NULL AND NOT s.active
    ) AS holders (held_since)
    """
)

_DEAD_TUPLES = text(
    """
    SELECT relname, n_dead_tup FROM pg_stat_all_tables
    WHERE schemaname = 'relay' AND relname IN :names
    """
).bindparams(bindparam("names", expanding=True))

_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


async def oldest_transaction_seconds(connection: AsyncConnection) -> float | None:
    """Age of the oldest open transaction in this database that holds back vacuum; None: no such.

    Transactions that are prepared and replication slots that nobody reads count as well. Of other
    roles' sessions the server tells only a role that may read all statistics (``pg_monitor``).
    """
    found: float | None = (await connection.execute(_OLDEST_HOLDER)).scalar_one()
    return found


async def dead_tuples(connection: AsyncConnection) -> dict[str, int]:
    """Dead rows of the ``HOT_TABLES`` that vacuum has not removed yet, as the server counts."""
    rows = await connection.execute(_DEAD_TUPLES, {"names": HOT_TABLES})
    return {row.relname: row.n_dead_tup for row in rows}


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
