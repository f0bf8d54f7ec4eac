"""The numbers that tell whether all is well."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def lag(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Unfinished events by source, with what stops it."""
    rows = await connection.execute(
        text(
            """
            SELECT l.source, l.pending, l.retrying, l.dead,
                   CASE WHEN l.pending + l.retrying > 0 THEN l.oldest_pending_seconds END
                       AS oldest_pending_seconds,
                   s.paused_at, s.halted_at, s.halted_code, s.halted_error, s.insecure
            FROM relay.lag l JOIN relay.source s ON s.name = l.source AND s.deleted_at IS NULL
            ORDER BY s.id
            """
        )
    )
    return [dict(row._mapping) for row in rows]


async def waiting_reasons(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Why events wait that were tried before: by source and error code, the most first."""
    rows = await connection.execute(
        text(
            """
            SELECT s.name AS source, q.last_error_code AS code, count(*) AS events,
                   min(q.last_error) AS error, min(q.visible_at) AS next_attempt_at
            FROM relay.queue q JOIN relay.source s ON s.id = q.source_id
            WHERE q.visible_at IS NOT NULL AND q.last_error_code IS NOT NULL
            GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 50
            """
        )
    )
    return [dict(row._mapping) for row in rows]


async def batches(connection: AsyncConnection) -> list[dict[str, Any]]:
    """The batches in flight, and those whose lanes rest because their process died."""
    rows = await connection.execute(
        text(
            """
            SELECT process_id, cardinality(numbers) AS rows, cardinality(lanes) AS lanes,
                   extract(epoch FROM clock_timestamp() - started_at)::float8 AS seconds
            FROM relay.batch_note ORDER BY started_at
            """
        )
    )
    return [dict(row._mapping) for row in rows]


async def services(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Who of relay is connected, by application name, the commands excepted.

    Since when, a role sees of its own connections only, unless it may read all statistics.
    """
    rows = await connection.execute(
        text(
            """
            SELECT application_name AS name, count(*) AS connections,
                   min(backend_start) AS connected_since
            FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'relay-%'
              AND application_name NOT IN ('relay-cli', 'relay-doctor', 'relay-migrate')
            GROUP BY 1 ORDER BY 1
            """
        )
    )
    return [dict(row._mapping) for row in rows]


async def partitions_ahead_days(connection: AsyncConnection) -> float | None:
    """For how many days there are partitions to store into; None when there are none at all."""
    found: float | None = (
        await connection.execute(
            text(
                """
                SELECT extract(epoch FROM max(
                    (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']+)''\\)'))[1]
                        ::timestamptz) - now())::float8 / 86400
                FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
                WHERE h.inhparent = 'relay.inbox'::regclass AND NOT h.inhdetachpending
                """
            )
        )
    ).scalar_one()
    return found
