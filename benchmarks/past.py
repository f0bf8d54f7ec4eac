"""A large inbox with a past of three months, made by the server itself.

Four sources, fifteen types of events, and objects of which one has a hundredth of everything. Most
are delivered; some wait, some are retried, some are dead, and a hundredth was skipped. What many
operators did is written down, replays and snapshots among it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import asyncpg

from relay.core.source import SourceConfig
from relay.store import partitions, sources
from relay.store.engine import Database

DAYS = 90
ENTRIES = 100_000
"""Of the operator log; a fifth of them are the steps of replays of many."""
HOT = "cus_hot"
RARE = "payout.failed"
_CHUNK = 500_000
_SOURCES = ("shop", "eu", "us", "small")

_FILL = """
WITH numbered AS MATERIALIZED (
    SELECT nextval('relay.arrival') AS id, n, (n * 2654435761) % 4294967296 AS h,
           $2::timestamptz - make_interval(secs => ($3 - n) * $4::float8 / $3) AS received_at
    FROM generate_series($5::bigint, $6::bigint) AS n
), shaped AS (
    SELECT *, (h % 5)::integer + 1 AS kind, 'evt_' || lpad(n::text, 10, '0') AS event_id,
           ($1::integer[])[CASE WHEN h / 5 % 100 < 70 THEN 1 WHEN h / 5 % 100 < 90 THEN 2
                           WHEN h / 5 % 100 < 99 THEN 3 ELSE 4 END] AS source_id,
           CASE WHEN n > $3 - $3 / 2000 THEN 'pending'
                WHEN n > $3 * 0.97 AND h / 7 % 150 = 1 THEN 'retrying'
                WHEN h / 7 % 3333 = 2 THEN 'dead'
                WHEN h / 7 % 100 = 3 THEN 'skipped' ELSE 'delivered' END AS state
    FROM numbered
), made AS MATERIALIZED (
    SELECT *,
           CASE WHEN n % 100 = 50 THEN 'cus_hot'
                ELSE ('{cus,in,ch,pi,sub}'::text[])[kind] || '_' || (h / 11) % ($3 / 25 + 1) END
               AS object_id,
           CASE WHEN n % 100 = 50 THEN 'customer' ELSE
               ('{customer,invoice,charge,payment_intent,subscription}'::text[])[kind] END
               AS object_type,
           CASE WHEN n % 100000 = 77 THEN 'payout.failed'
                WHEN n % 100 = 50 THEN 'customer.updated' ELSE
               ('{customer,invoice,charge,payment_intent,subscription}'::text[])[kind]
               || ('{.created,.updated,.deleted}'::text[])[(h / 13 % 3)::integer + 1] END
               AS event_type
    FROM shaped
), written AS MATERIALIZED (
    SELECT id, convert_to('{"id": "' || event_id || '", "object": "event", "type": "' || event_type
               || '", "data": {"object": {"id": "' || object_id || '", "object": "' || object_type
               || '", "description": "' || repeat('x', 500) || '", "balance": ' || n
               || '}, "previous_attributes": {"balance": 0}}}', 'UTF8') AS body
    FROM made
), stored AS (
    INSERT INTO relay.inbox (id, received_at, source_id, event_id, event_type, object_type,
        object_id, livemode, api_version, event_created, origin, signature_header, body,
        body_sha256)
    SELECT id, received_at, source_id, event_id, event_type, object_type, object_id, true,
        '2026-08-26.dahlia', received_at, 'webhook', 't=1,v1=' || repeat('0', 64), body,
        sha256(body)
    FROM made JOIN written USING (id) ORDER BY id
), keyed AS (
    INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)
    SELECT event_id, source_id, id, received_at FROM made ORDER BY id
), queued AS (
    INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes,
        attempts, last_error_code, last_error, visible_at)
    SELECT source_id, h % 64, id, id, received_at, h, 700,
        CASE state WHEN 'retrying' THEN 3 ELSE 0 END,
        CASE state WHEN 'retrying' THEN 'transform_error' END,
        CASE state WHEN 'retrying' THEN 'it broke' END,
        CASE state WHEN 'retrying' THEN now() + interval '1 day' END
    FROM made WHERE state IN ('pending', 'retrying')
), failed AS (
    INSERT INTO relay.attempt (inbox_id, number, failed_at, error_code, error)
    SELECT id, id, received_at, 'transform_error', 'it broke'
    FROM made, generate_series(1, 3) WHERE state IN ('retrying', 'dead')
), dead AS (
    INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, event_type,
        error_code, error, attempts, dead_at)
    SELECT source_id, id, received_at, event_id, event_type,
        ('{too_large,transform_error,unusable}'::text[])[n % 3 + 1], 'it broke', 3, received_at
    FROM made WHERE state = 'dead'
)
INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts, topic, partition,
    "offset", key, op, skipped, replay_id, produced_at)
SELECT id, received_at, id, record, 0, 0,
    CASE WHEN state = 'delivered' THEN object_type END,
    CASE WHEN state = 'delivered' THEN h % 6 END, CASE WHEN state = 'delivered' THEN n END,
    CASE WHEN state = 'delivered' THEN '{"id":"' || object_id || '"}' END,
    CASE WHEN state = 'delivered' THEN 'u' END,
    CASE WHEN state = 'skipped' THEN 'unselected' END,
    CASE WHEN h / 7 % 500 = 8 THEN 'rpl_' || 1 + n * 20 / ($3 + 1) END, received_at
FROM made, generate_series(0, CASE WHEN event_type = 'invoice.created' THEN 2 ELSE 0 END) AS record
WHERE state = 'delivered' OR state = 'skipped' AND record = 0
"""

# What single events were done with, and a step for each thousand of twenty replays of many.
_OPERATE = """
INSERT INTO relay.operator_log (at, who, action, target, reason, details)
SELECT $2::timestamptz - make_interval(secs => ($1 - n) * $3::float8 / $1), 'ana (dashboard)',
       CASE WHEN n % 5 = 0 THEN 'event.replay' WHEN n % 5 = 1 THEN 'event.skip'
            WHEN n % 5 = 2 THEN 'event.replay' ELSE 'event.retry' END,
       CASE WHEN n % 5 = 0 THEN 'rpl_' || 1 + n * 20 / ($1 + 1)
            WHEN n % 5 = 2 THEN 'rpl_few_' || n ELSE '1 events' END,
       'the consumer was mended',
       CASE WHEN n % 5 = 0 THEN jsonb_build_object(
                'replay_id', 'rpl_' || 1 + n * 20 / ($1 + 1), 'first', 1, 'last', 1, 'done', n,
                'number', n, 'tail', n, 'queued', n % ($1 / 20), 'redacted', 0,
                'matched', $1 / 20, 'cancelled', false, 'background', true,
                'finished', (n + 5) * 20 / ($1 + 1) > n * 20 / ($1 + 1) OR n + 5 > $1,
                'choice', '{"topic": null, "wanted": {"state": "delivered"}}'::jsonb)
            WHEN n % 5 = 2 THEN jsonb_build_object(
                'queued', jsonb_build_object('count', 1, 'ids', jsonb_build_array($4 + n)),
                'redacted', '{"count": 0, "ids": []}'::jsonb)
            ELSE jsonb_build_object('count', 1, 'ids', jsonb_build_array($4 + n)) END
FROM generate_series(1, $1::integer) AS n
"""

_REFUSE = """
INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, dead_at, refused_body)
SELECT $1, 'signature_invalid', 'no signature fits', 0, now() - make_interval(mins => n), 'x'
FROM generate_series(1, 1000) AS n
"""

_SNAPSHOTS = """
WITH made AS (
    INSERT INTO relay.snapshot (id, source_id, state, api_version, resources, livemode, started_at,
        finished_at)
    SELECT 'snapshot_' || n, $1, 'finished', '2026-08-26.dahlia', '{customer,invoice,charge}', true,
        now() - make_interval(days => n), now() - make_interval(days => n - 1)
    FROM generate_series(1, 200) AS n
    RETURNING id
)
INSERT INTO relay.snapshot_range (snapshot_id, resource, state, created_from, created_until,
    objects, pages, requests, started_at, updated_at, finished_at)
SELECT id, resource, 'finished', now() - make_interval(days => part),
    now() - make_interval(days => part - 1), 100, 1, 1, now(), now(), now()
FROM made, unnest('{customer,invoice,charge}'::text[]) AS resource, generate_series(1, 60) AS part
"""


class Past(NamedTuple):
    """What was stored: inbox ids from ``first`` to ``last``, without gaps."""

    rows: int
    first: int
    last: int


async def fill(url: str, rows: int) -> Past:
    """Store so many events, up to now."""
    database = Database(url)
    ids = [await _add_source(database, name) for name in _SOURCES]
    await database.close()
    pg = await asyncpg.connect(url)
    try:
        now: datetime = await pg.fetchval("SELECT now()")
        for day in range(DAYS, -1, -1):
            await partitions.ensure_ahead(pg, retention_days=DAYS, now=now - timedelta(days=day))
        await _store(pg, ids, rows, now)
        past = await read(pg)
        await pg.execute(_OPERATE, ENTRIES, now, timedelta(days=DAYS).total_seconds(), past.first)
        await pg.execute(_REFUSE, ids[0])
        await pg.execute(_SNAPSHOTS, ids[0])
        # As autovacuum leaves it, which gathers nothing of the parents.
        for row in await pg.fetch(
            "SELECT oid::regclass::text AS name FROM pg_class"
            " WHERE relnamespace = 'relay'::regnamespace AND relkind = 'r'"
        ):
            await pg.execute(f"VACUUM ANALYZE {row['name']}")
        await pg.execute("CHECKPOINT")
    finally:
        await pg.close()
    return past


async def read(pg: asyncpg.Connection) -> Past:
    """What there is."""
    first, last = await pg.fetchrow("SELECT min(id), max(id) FROM relay.inbox")
    return Past(last - first + 1, first, last)


async def _store(pg: asyncpg.Connection, ids: Sequence[int], rows: int, now: datetime) -> None:
    seconds = timedelta(days=DAYS).total_seconds()
    # To keep what is made of half a million rows in memory, and off the disk.
    await pg.execute("SET work_mem = '512MB'; SET synchronous_commit = off")
    for start in range(1, rows + 1, _CHUNK):
        end = min(start + _CHUNK - 1, rows)
        await pg.execute(_FILL, list(ids), now, rows, seconds, start, end, timeout=3600)


async def _add_source(database: Database, name: str) -> int:
    config = SourceConfig(source_id=0, public_id="", name=name, insecure=True, resources=("*",))
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id
