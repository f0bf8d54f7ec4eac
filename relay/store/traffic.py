"""What the stored events tell about the sources, at a cost that does not grow with the inbox."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import partitions

SAMPLE_PAGES = 5000
"""40 MB of a table of narrow rows, about half a million of them; all of it when it is smaller."""

SILENT_SECONDS: Final = 86_400.0
SILENT_GAPS: Final = 10

_NEWEST_RECEIPTS = 5000
_RECEIPTS_OF_A_PARTITION = 500
_OLDER_PARTITIONS = 12


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """When a source received something, by the sample of it; nothing at all without a first one.

    ``usual_gap`` is the mean time between the sampled events, which in a thin sample is longer than
    between events. All in seconds before now.
    """

    source: str
    created: float
    last: float | None
    usual_gap: float | None
    last_at: datetime | None = None

    @property
    def is_silent(self) -> bool:
        """For a day, and for ten times as long as is usual for it."""
        if self.last is None:
            return self.created > SILENT_SECONDS
        return self.usual_gap is not None and self.last > max(
            SILENT_SECONDS, SILENT_GAPS * self.usual_gap
        )


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Webhooks of one kind among those that were looked at, and when the first and last came."""

    source_id: int
    api_version: str | None
    livemode: bool | None
    events: int
    first: datetime
    last: datetime


class KeyState(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a source's URL. ``ends_in`` is in seconds, of the next one that expires."""

    source: str
    good: int
    ends_in: float | None


class Placed(msgspec.Struct, frozen=True):
    """A record that Kafka has acknowledged: where its key went, and when."""

    topic: str
    partition: int
    key: str
    seconds: float
    """How long ago."""


class PartitionState(msgspec.Struct, frozen=True, kw_only=True):
    """How far the inbox is made ahead, in seconds from now, and what the retention has left."""

    ahead: float | None
    """None: there is not one partition."""
    gap: float | None
    """From when on a partition is missing, although later ones are there."""
    overdue: int
    oldest_overdue: datetime | None


# The narrow table beside the inbox, one row per event in the order of arrival. Pages at random, so
# that the time between two of them is short beside the hours that a silence is measured in.
_ACTIVITY = text(
    """
    SELECT s.name AS source, extract(epoch FROM now() - s.created_at)::float8 AS created,
           extract(epoch FROM now() - e.last)::float8 AS last, e.last AS last_at,
           extract(epoch FROM e.last - e.first)::float8 / nullif(e.events - 1, 0) AS usual_gap
    FROM relay.source s LEFT JOIN (
        SELECT source_id, count(*) AS events, min(received_at) AS first, max(received_at) AS last
        FROM relay.event_key TABLESAMPLE SYSTEM (:percent)
        -- What a snapshot has read says nothing about the endpoint in Stripe.
        WHERE NOT starts_with(event_id, 'snap_') GROUP BY source_id
    ) e ON e.source_id = s.id
    WHERE s.deleted_at IS NULL ORDER BY s.id
    """
)
_PAGES = text("SELECT pg_relation_size('relay.event_key') / current_setting('block_size')::bigint")

# The newest 2,000 of the inbox, and 200 out of each stretch before, twice as long as the one after:
# a few probes of the primary key, however many there are (5 ms at 3 million).
_SEEN = text(
    """
    WITH newest AS (SELECT max(id) AS id FROM relay.inbox),
    probe AS (
        SELECT id AS upper, id - 2000 AS lower, 2000 AS rows FROM newest
        UNION ALL
        SELECT id - 1000 * (1::bigint << n), id - 1000 * (1::bigint << (n + 1)), 200
        FROM newest, generate_series(1, 34) AS n WHERE id > 1000 * (1::bigint << n)
    )
    SELECT e.source_id, e.api_version, e.livemode, count(*)::int AS events,
           min(e.received_at) AS first, max(e.received_at) AS last
    FROM probe p CROSS JOIN LATERAL (
        SELECT source_id, api_version, livemode, received_at, origin FROM relay.inbox
        WHERE id <= p.upper AND id > p.lower ORDER BY id DESC LIMIT p.rows
    ) e
    WHERE e.origin = 'webhook' GROUP BY 1, 2, 3 ORDER BY last DESC
    """
)

_KEYS = text(
    """
    SELECT s.name AS source,
           count(k.sha256) FILTER (WHERE k.expires_at IS NULL OR k.expires_at > now())::int AS good,
           extract(epoch FROM min(k.expires_at) FILTER (WHERE k.expires_at > now()) - now())::float8
               AS ends_in
    FROM relay.source s LEFT JOIN relay.api_key k ON k.source_id = s.id
    WHERE s.deleted_at IS NULL GROUP BY s.id ORDER BY s.id
    """
)

# The newest of a range, skipped ones left out afterwards: looking for others could take long.
_RECEIPTS = """
    SELECT topic, partition, key, extract(epoch FROM now() - produced_at)::float8
    FROM (SELECT topic, partition, key, produced_at FROM relay.receipt
          WHERE received_at >= $1 AND received_at < $2 ORDER BY inbox_id DESC LIMIT $3) newest
    WHERE topic IS NOT NULL
"""


async def activity(connection: AsyncConnection) -> list[Activity]:
    """When each source received something."""
    pages = (await connection.execute(_PAGES)).scalar_one()
    percent = min(100.0, 100.0 * SAMPLE_PAGES / max(pages, 1))
    rows = await connection.execute(_ACTIVITY, {"percent": percent})
    return [Activity(**row._mapping) for row in rows]


async def seen(connection: AsyncConnection) -> list[Seen]:
    """What has come lately, and a few of what came before; the newest kind first."""
    return [Seen(**row._mapping) for row in await connection.execute(_SEEN)]


async def keys(connection: AsyncConnection) -> list[KeyState]:
    """The keys of each source."""
    return [KeyState(**row._mapping) for row in await connection.execute(_KEYS)]


async def placed(pg: asyncpg.Connection) -> list[Placed]:
    """Records that were acknowledged lately, and a few out of each of the older partitions."""
    found: list[Placed] = []
    limit = _NEWEST_RECEIPTS
    now = await pg.fetchval("SELECT now()")
    past = [each for each in await partitions.list_partitions(pg) if each.lower <= now]
    for each in reversed(past[-_OLDER_PARTITIONS:]):
        rows = await pg.fetch(_RECEIPTS, each.lower, each.upper, limit)
        found += [Placed(*row) for row in rows]
        # Right after a partition began, the newest are still in the one before.
        limit = max(limit - len(rows), _RECEIPTS_OF_A_PARTITION)
    return found


async def partition_state(pg: asyncpg.Connection, *, retention_days: int) -> PartitionState:
    """How far ahead there are partitions, and which the retention should have taken out."""
    now: datetime = await pg.fetchval("SELECT now()")
    covered, end = None, now
    overdue = []
    for each in await partitions.list_partitions(pg):
        covered = each.upper
        if each.lower <= end < each.upper:
            end = each.upper
        age = (now - each.upper).total_seconds() / 86_400
        # Housekeeping comes round every minute; a day of grace for what it waits for.
        if retention_days > 0 and age > retention_days + 1:
            overdue.append(each.lower)
    ahead = None if covered is None else (end - now).total_seconds()
    has_gap = covered is not None and covered > end
    return PartitionState(
        ahead=ahead,
        gap=ahead if has_gap else None,
        overdue=len(overdue),
        oldest_overdue=min(overdue, default=None),
    )
