"""The numbers that tell whether all is well."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store.engine import driver_of


async def lag(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Unfinished events by source, with what stops it."""
    rows = await connection.execute(
        text(
            """
            SELECT l.source, s.public_id AS id, l.pending, l.retrying, l.dead,
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


async def queued_rows(connection: AsyncConnection) -> int:
    """About how many rows the queue has, as the server keeps count: cheap however many."""
    found: int = (
        await connection.execute(
            text("SELECT n_live_tup FROM pg_stat_all_tables WHERE relid = 'relay.queue'::regclass")
        )
    ).scalar_one()
    return found


async def may_read_notes(connection: AsyncConnection) -> bool:
    """Whether this role may know of the batches in flight; a receiver's may not."""
    found: bool = (
        await connection.execute(text("SELECT has_table_privilege('relay.batch_note', 'SELECT')"))
    ).scalar_one()
    return found


async def resting_lanes(connection: AsyncConnection) -> int | None:
    """Lanes that wait until the records of a batch cannot arrive any more that lost its database.

    Whoever forwards holds a lock on the table of the lanes; a note without its holder rests. None
    behind a pooler, which has process ids of its own.
    """
    driver = await driver_of(connection)
    told = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    if told != driver.get_server_pid():
        return None
    # In two steps: a batch that ends between the look at the notes and the look at the locks, which
    # are not of the same moment, has no note any more in the second.
    rows = await connection.execute(
        text(
            """
            SELECT n.id FROM relay.batch_note n WHERE NOT EXISTS (
                SELECT FROM pg_locks l
                WHERE l.pid = n.backend_pid AND l.relation = 'relay.lane'::regclass
                  AND l.mode = 'RowShareLock' AND l.granted)
            """
        )
    )
    suspects = list(rows.scalars())
    found: int = (
        await connection.execute(
            text(
                """
                SELECT coalesce(sum(cardinality(lanes)), 0) FROM relay.batch_note
                WHERE id = ANY (CAST(:suspects AS uuid[]))
                """
            ),
            {"suspects": suspects},
        )
    ).scalar_one()
    return found


async def bound_statements(connection: AsyncConnection, seconds: float) -> None:
    """Let the server give up whatever takes longer, until the end of the transaction."""
    await connection.execute(
        text("SELECT set_config('statement_timeout', :timeout, true)"),
        {"timeout": f"{int(seconds * 1000)}ms"},
    )
