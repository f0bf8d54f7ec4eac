"""How much comes in and goes out, at a cost that does not grow with what there is."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Written(msgspec.Struct, frozen=True):
    """Rows that were ever written, as the server counts them: only differences say something."""

    events: int
    receipts: int


async def written(connection: AsyncConnection) -> Written:
    """Of the inbox (events) and of the receipts (records acknowledged, and events skipped).

    The server's counters lag by some seconds, and begin anew after a crash and a failover.
    """
    row = (
        await connection.execute(
            text(
                """
                SELECT coalesce(sum(n_tup_ins) FILTER (WHERE relname ~ '^inbox_p'), 0)::bigint,
                       coalesce(sum(n_tup_ins) FILTER (WHERE relname ~ '^receipt_p'), 0)::bigint
                FROM pg_stat_all_tables WHERE schemaname = 'relay'
                """
            )
        )
    ).one()
    return Written(*row)


async def refused(connection: AsyncConnection) -> list[dict[str, Any]]:
    """The samples of requests that were refused in the last hour, by error code.

    A bounded sample: no more of them are kept than a receiver has room for.
    """
    rows = await connection.execute(
        text(
            """
            SELECT error_code AS code, count(*) AS samples FROM relay.dead_letter
            WHERE inbox_id IS NULL AND dead_at > now() - interval '1 hour'
            GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20
            """
        )
    )
    return [dict(row._mapping) for row in rows]


async def dead_by_code(connection: AsyncConnection) -> list[dict[str, Any]]:
    """Open dead letters of events by source and error code, the most first."""
    rows = await connection.execute(
        text(
            """
            SELECT s.name AS source, d.error_code AS code, count(*) AS events,
                   min(d.dead_at) AS oldest
            FROM relay.dead_letter d JOIN relay.source s ON s.id = d.source_id
            WHERE d.inbox_id IS NOT NULL AND d.replayed_at IS NULL AND d.discarded_at IS NULL
            GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 200
            """
        )
    )
    return [dict(row._mapping) for row in rows]
