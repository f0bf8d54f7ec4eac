"""What is stored about events, read for an audit: by pages, in one snapshot of the database.

Every statement here may run as a member of relay_auditor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import asyncpg

from relay.store.engine import FOR_EVER, Database
from relay.store.partitions import DROPPED

_ROWS_AT_ONCE = 2000
_SEALS_AT_ONCE = 100


@asynccontextmanager
async def snapshot(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A transaction in which everything is as it was at its beginning, whatever goes on."""
    async with (
        database.driver(FOR_EVER) as pg,
        pg.transaction(isolation="repeatable_read", readonly=True),
    ):
        yield pg


async def find_source(pg: asyncpg.Connection, name: str) -> list[int]:
    """The ids of all sources that have, or had, this name."""
    rows = await pg.fetch("SELECT id FROM relay.source WHERE name = $1", name)
    return [row["id"] for row in rows]


# A constant limit: the planner reads in the order of the keys and sorts nothing.
_PAGE = """
SELECT id, received_at, source_id, event_id, body_sha256, xact_id FROM relay.inbox
WHERE id > $1 AND received_at >= $2 AND ($3::int[] IS NULL OR source_id = ANY ($3))
ORDER BY id LIMIT 2000
"""


async def pages(
    pg: asyncpg.Connection, since: datetime, sources: Sequence[int] | None = None
) -> AsyncIterator[list[asyncpg.Record]]:
    """The rows of the inbox in the order of their ids, without their bodies."""
    last = -(2**63)
    while page := await pg.fetch(_PAGE, last, since, sources):
        yield page
        last = page[-1]["id"]


async def queued(pg: asyncpg.Connection, ids: Sequence[int]) -> list[asyncpg.Record]:
    """How often each of these events stands in the line; copies of dead letters do not count."""
    return await pg.fetch(
        "SELECT inbox_id, count(*) AS rows FROM relay.queue"
        " WHERE inbox_id = ANY ($1) AND kind = 0 GROUP BY inbox_id",
        ids,
    )


async def dead(pg: asyncpg.Connection, ids: Sequence[int]) -> list[asyncpg.Record]:
    """How many open dead letters there are of each of these events."""
    return await pg.fetch(
        "SELECT inbox_id, count(*) AS rows FROM relay.dead_letter WHERE inbox_id = ANY ($1)"
        " AND replayed_at IS NULL AND discarded_at IS NULL GROUP BY inbox_id",
        ids,
    )


async def receipts(pg: asyncpg.Connection, page: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """The receipts of these events."""
    return await pg.fetch(
        "SELECT inbox_id, received_at, number, record, kind, skipped FROM relay.receipt"
        " WHERE inbox_id = ANY ($1) AND received_at BETWEEN $2 AND $3",
        *_bounds(page),
    )


async def keys(pg: asyncpg.Connection, page: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """What event_key holds for the event ids of these rows, where it holds something."""
    return await pg.fetch(
        """
        SELECT g.id, k.inbox_id, k.received_at
        FROM unnest($1::bigint[], $2::text[], $3::int[]) AS g (id, event_id, source_id)
        JOIN relay.event_key k ON k.event_id = g.event_id AND k.source_id = g.source_id
        """,
        [row["id"] for row in page],
        [row["event_id"] for row in page],
        [row["source_id"] for row in page],
    )


async def altered(pg: asyncpg.Connection, page: Sequence[asyncpg.Record]) -> dict[int, int]:
    """Those of which the body does not have the stored SHA-256, with the bytes it has."""
    found = await pg.fetch("SELECT * FROM relay.altered_bodies($1, $2, $3)", *_bounds(page))
    return {row["inbox_id"]: row["body_bytes"] for row in found}


async def redacted(pg: asyncpg.Connection, ids: Sequence[int]) -> set[tuple[int, datetime]]:
    """Those of which a redaction says that the body was erased."""
    if not ids:
        return set()
    found = await pg.fetch(
        "SELECT inbox_id, received_at FROM relay.redactions WHERE inbox_id = ANY ($1)", ids
    )
    return {(row["inbox_id"], row["received_at"]) for row in found}


def _bounds(page: Sequence[asyncpg.Record]) -> tuple[list[int], datetime, datetime]:
    moments = [row["received_at"] for row in page]
    return [row["id"] for row in page], min(moments), max(moments)


# Rows that point to an event which is not there. Closed dead letters and keys outlive their events
# where a partition is gone; nothing unfinished does.
_ORPHANS = {
    "queue row": """
        SELECT x.inbox_id, x.number::text AS name FROM relay.queue x
        WHERE x.received_at >= $1 AND ($2::int[] IS NULL OR x.source_id = ANY ($2))
          AND NOT EXISTS (SELECT FROM relay.inbox i
                          WHERE i.id = x.inbox_id AND i.received_at = x.received_at)
    """,
    "dead letter": """
        SELECT x.inbox_id, x.id::text AS name FROM relay.dead_letter x
        WHERE x.received_at >= $1 AND ($2::int[] IS NULL OR x.source_id = ANY ($2))
          AND x.inbox_id IS NOT NULL
          AND NOT EXISTS (SELECT FROM relay.inbox i
                          WHERE i.id = x.inbox_id AND i.received_at = x.received_at)
          AND (x.replayed_at IS NULL AND x.discarded_at IS NULL OR EXISTS (
               SELECT FROM unnest($3::timestamptz[], $4::timestamptz[]) AS p (lower, upper)
               WHERE x.received_at >= p.lower AND x.received_at < p.upper))
    """,
    # It names no source.
    "receipt": """
        SELECT x.inbox_id, x.number || '/' || x.record AS name FROM relay.receipt x
        WHERE x.received_at >= $1 AND $2::int[] IS NULL
          AND NOT EXISTS (SELECT FROM relay.inbox i
                          WHERE i.id = x.inbox_id AND i.received_at = x.received_at)
          AND EXISTS (
              SELECT FROM unnest($3::timestamptz[], $4::timestamptz[]) AS p (lower, upper)
              WHERE x.received_at >= p.lower AND x.received_at < p.upper)
    """,
    "event key": """
        SELECT x.inbox_id, x.event_id AS name FROM relay.event_key x
        WHERE x.received_at >= $1 AND ($2::int[] IS NULL OR x.source_id = ANY ($2))
          AND NOT EXISTS (
              SELECT FROM relay.inbox i WHERE i.id = x.inbox_id
                 AND i.received_at = x.received_at AND i.event_id = x.event_id
                 AND i.source_id = x.source_id)
          AND EXISTS (
              SELECT FROM unnest($3::timestamptz[], $4::timestamptz[]) AS p (lower, upper)
              WHERE x.received_at >= p.lower AND x.received_at < p.upper)
    """,
}


async def orphans(
    pg: asyncpg.Connection,
    kept: Sequence[tuple[datetime, datetime]],
    since: datetime,
    sources: Sequence[int] | None,
) -> AsyncIterator[tuple[str, int, str]]:
    """What points to no event: its kind, the inbox id it names, and a name of its own.

    ``kept`` are the bounds of the partitions.
    """
    bounds = [[lower for lower, _ in kept], [upper for _, upper in kept]]
    for kind, statement in _ORPHANS.items():
        given = [since, sources, *(bounds if "$3" in statement else [])]
        async for row in pg.cursor(statement, *given, prefetch=_ROWS_AT_ONCE):
            yield kind, row["inbox_id"], row["name"]


async def seals(pg: asyncpg.Connection) -> AsyncIterator[asyncpg.Record]:
    """The chain from its first kept seal on."""
    statement = "SELECT * FROM relay.seal ORDER BY number"
    async for row in pg.cursor(statement, prefetch=_SEALS_AT_ONCE):
        yield row


async def seals_by_id(pg: asyncpg.Connection, since: date) -> AsyncIterator[asyncpg.Record]:
    """Those with rows, from a day on, in the order of the first ids in them."""
    statement = (
        "SELECT number, day, ids, leaves, first_id FROM relay.seal"
        " WHERE count > 0 AND day >= $1 ORDER BY first_id"
    )
    async for row in pg.cursor(statement, since, prefetch=10):
        yield row


async def newest_sealed(pg: asyncpg.Connection) -> datetime | None:
    """When the newest of the rows in the last seals was received."""
    found: datetime | None = await pg.fetchval(
        """
        SELECT max(received_at) FROM relay.inbox WHERE id IN (
            SELECT unnest(ids) FROM (
                SELECT ids FROM relay.seal WHERE count > 0 ORDER BY number DESC LIMIT 20) s)
        """
    )
    return found


async def cluster(pg: asyncpg.Connection) -> int:
    """The system identifier of the server."""
    found: int = await pg.fetchval("SELECT system_identifier FROM pg_control_system()")
    return found


async def drops(pg: asyncpg.Connection) -> list[tuple[datetime, datetime]]:
    """What the retention says that it has dropped."""
    rows = await pg.fetch(
        "SELECT target FROM relay.operator_log WHERE who = 'relay' AND action = $1", DROPPED
    )
    spans = (row["target"].split() for row in rows)
    return [(datetime.fromisoformat(a), datetime.fromisoformat(b)) for a, b in spans]


async def delivered(
    pg: asyncpg.Connection, since: datetime, sources: Sequence[int] | None
) -> AsyncIterator[asyncpg.Record]:
    """Every receipt of a record with its event's id, in the order of Kafka's own places."""
    async for row in pg.cursor(
        """
        SELECT t.topic, t.partition, t."offset", t.key, t.op, t.kind, t.inbox_id, i.event_id
        FROM relay.receipt t
        JOIN relay.inbox i ON i.id = t.inbox_id AND i.received_at = t.received_at
        WHERE t.topic IS NOT NULL AND t.received_at >= $1
          AND ($2::int[] IS NULL OR i.source_id = ANY ($2))
        ORDER BY t.topic COLLATE "C", t.partition, t."offset"
        """,
        since,
        sources,
        prefetch=_ROWS_AT_ONCE,
    ):
        yield row


async def bodies(pg: asyncpg.Connection, ids: Sequence[int]) -> dict[int, asyncpg.Record]:
    """These events with their bytes, by inbox id; without a body once it was redacted."""
    rows = await pg.fetch(
        """
        SELECT i.id, i.event_id, i.event_type, i.object_type, i.object_id, i.account, i.livemode,
               i.api_version, i.event_created, i.origin, nullif(relay.body(i.id), '') AS body
        FROM relay.inbox i WHERE i.id = ANY ($1)
        """,
        ids,
    )
    return {row["id"]: row for row in rows}


def is_kept(day: date, kept: Sequence[tuple[Any, Any]]) -> bool:
    """Whether some partition holds rows of this day."""
    return any(
        lower.date() <= day <= upper.date() and _touches(day, upper) for lower, upper in kept
    )


def _touches(day: date, upper: datetime) -> bool:
    # A partition that ends at midnight does not hold the day that begins there.
    return upper.date() != day or upper.time() != upper.time().min
