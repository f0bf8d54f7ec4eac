"""Rows of other days: put where they would have been stored then."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg

from relay.store import partitions
from relay.store.partitions import Partition

DAY = timedelta(days=1)


async def store_at(
    pg: asyncpg.Connection, moment: datetime, *, source_id: int = 1, settled: bool = True
) -> int:
    """An event received at that moment, delivered or waiting; its inbox id."""
    stored: int = await pg.fetchval(
        """
        WITH made AS MATERIALIZED (SELECT nextval('relay.arrival') AS id), keyed AS (
            INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)
            SELECT 'old_' || id, $2, id, $1 FROM made
        )
        INSERT INTO relay.inbox (id, received_at, source_id, event_id, origin, body, body_sha256)
        SELECT id, $1, $2, 'old_' || id, 'webhook', 'x', sha256('x') FROM made
        RETURNING id
        """,
        moment,
        source_id,
    )
    if settled:
        await pg.execute(
            """
            INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts,
                topic, partition, "offset", key, op, produced_at)
            VALUES ($1, $2, $1, 0, 0, 0, 'customer', 0, 0, '{}', 'u', $2)
            """,
            stored,
            moment,
        )
    else:
        await queue_at(pg, stored, moment, source_id=source_id)
    return stored


async def queue_at(
    pg: asyncpg.Connection, inbox_id: int, moment: datetime, *, source_id: int = 1, kind: int = 0
) -> None:
    await pg.execute(
        """
        INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes,
            kind)
        VALUES ($1, 0, nextval('relay.arrival'), $2, $3, 0, 1, $4)
        """,
        source_id,
        inbox_id,
        moment,
        kind,
    )


async def past(pg: asyncpg.Connection, days: int, retention_days: int = 7) -> list[Partition]:
    """As many days of daily partitions before today, as if house had been kept; oldest first."""
    today: datetime = await pg.fetchval("SELECT date_trunc('day', now(), 'UTC')")
    for ago in range(days, -1, -1):
        await partitions.ensure_ahead(pg, retention_days=retention_days, now=today - ago * DAY)
    found = await partitions.list_partitions(pg)
    return [partition for partition in found if partition.upper <= today]
