"""A large inbox in a moment: rows that the server makes by itself, in all the states."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg

from relay.store import partitions

DAYS = 6
"""How far back the rows go; with daily partitions each day is one."""

_FILL = """
WITH made AS MATERIALIZED (
    SELECT nextval('relay.arrival') AS id, n,
           $2::timestamptz - make_interval(secs => ($3 - n) * $4::float8 / $3) AS received_at
    FROM generate_series(1, $3::int) AS n
), stored AS (
    INSERT INTO relay.inbox (id, received_at, source_id, event_id, event_type, object_type,
        object_id, livemode, event_created, origin, body, body_sha256)
    SELECT id, received_at, $1, 'evt_' || n, 'customer.updated', 'customer', 'cus_' || n % $5,
        false, received_at, 'webhook', convert_to(repeat('x', 200), 'UTF8'), sha256('x')
    FROM made
), keyed AS (
    INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)
    SELECT 'evt_' || n, $1, id, received_at FROM made
), queued AS (
    INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes,
        attempts, last_error_code, last_error, visible_at)
    SELECT $1, n % 64, id, id, received_at, n % $5, 200, CASE n % 10 WHEN 0 THEN 3 ELSE 0 END,
        CASE n % 10 WHEN 0 THEN 'transform_error' END, CASE n % 10 WHEN 0 THEN 'no' END,
        CASE n % 10 WHEN 0 THEN now() + interval '1 hour' END
    FROM made WHERE n > $3 - $6
), dead AS (
    INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, event_type,
        error_code, error, attempts)
    SELECT $1, id, received_at, 'evt_' || n, 'customer.updated', 'too_large', 'no', 1
    FROM made WHERE n <= $3 - $6 AND n % 1000 = 0
)
INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts, topic, partition,
    "offset", key, op, skipped, produced_at)
SELECT id, received_at, id, 0, 0, 0, CASE WHEN n % 50 <> 7 THEN 'customer' END,
    CASE WHEN n % 50 <> 7 THEN 0 END, CASE WHEN n % 50 <> 7 THEN n END,
    CASE WHEN n % 50 <> 7 THEN '{"id":"cus_' || n % $5 || '"}' END,
    CASE WHEN n % 50 <> 7 THEN 'u' END, CASE WHEN n % 50 = 7 THEN 'unselected' END, received_at
FROM made WHERE n <= $3 - $6 AND n % 1000 <> 0
"""


async def fill(
    pg: asyncpg.Connection, source_id: int, rows: int, *, waiting: int = 1000, objects: int = 5000
) -> None:
    """Store ``evt_1`` to ``evt_<rows>`` of a source, spread over the last six days.

    The last ``waiting`` are in the queue, a tenth of them retrying; of the others each thousandth
    is dead, each 50th (``n % 50 = 7``) skipped and the rest delivered.
    """
    now: datetime = await pg.fetchval("SELECT now()")
    for day in range(DAYS, -1, -1):
        await partitions.ensure_ahead(pg, retention_days=7, now=now - timedelta(days=day))
    seconds = timedelta(days=DAYS).total_seconds()
    await pg.execute(_FILL, source_id, now, rows, seconds, objects, waiting)


async def analyze(pg: asyncpg.Connection, *, parents: bool) -> None:
    """Gather what the planner knows: of ``parents`` too, as an administrator does by hand, or of
    the partitions only, as autovacuum does.
    """
    kinds = "rp" if parents else "r"
    tables = await pg.fetch(
        "SELECT oid::regclass AS name FROM pg_class"
        " WHERE relnamespace = 'relay'::regnamespace AND relkind::text = ANY ($1)",
        list(kinds),
    )
    await pg.execute("ANALYZE " + ", ".join(row["name"] for row in tables))
