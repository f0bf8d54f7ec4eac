"""The numbers that tell whether all is well."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Durability(msgspec.Struct, frozen=True):
    """The settings of PostgreSQL without which 2xx would not mean "we hold it"."""

    writable: bool
    in_recovery: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str


async def durability(connection: AsyncConnection) -> Durability:
    """As they are for this session. Our own transactions state synchronous_commit themselves."""
    row = (
        await connection.execute(
            text(
                """
                SELECT current_setting('transaction_read_only') = 'off', pg_is_in_recovery(),
                       current_setting('fsync'), current_setting('full_page_writes'),
                       current_setting('synchronous_commit'),
                       current_setting('synchronous_standby_names')
                """
            )
        )
    ).one()
    return Durability(*row)


async def clock(connection: AsyncConnection) -> datetime:
    """The time by which everything here is told."""
    moment: datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment


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
