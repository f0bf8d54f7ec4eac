"""Partitions of the inbox and the receipts: made ahead, dropped when the retention has passed.

Both tables are cut at the same moments, by ``received_at`` of the inbox row, so that a join on it
prunes and both go together.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import asyncpg
import msgspec

PARTITIONED = ("inbox", "receipt")
_NAME = re.compile(r"(inbox|receipt)_p\d{8}(\d{6})?")

INLINE_BYTES = 8160

# Set on a partition before it is detached, so that only what the retention took out is dropped
# later, and never a partition that somebody detached by hand to keep it.
_DROP_MARK = "relay: retention has passed"


class Partition(msgspec.Struct, frozen=True):
    """One partition of the inbox with its twin of the receipts: ``[lower, upper)``."""

    suffix: str
    lower: datetime
    upper: datetime


def is_partition_name(table: str) -> bool:
    return _NAME.fullmatch(table) is not None


def width(retention_days: int) -> timedelta:
    """How much time one partition holds: fine enough for the retention, few enough to plan over."""
    if 0 < retention_days <= 14:
        return timedelta(days=1)
    if 0 < retention_days <= 90:
        return timedelta(days=7)
    return timedelta(days=30)


async def try_lock_housekeeping(pg: asyncpg.Connection) -> bool:
    """Whether this transaction now is the only one that keeps house; never waits."""
    locked: bool = await pg.fetchval(
        "SELECT pg_try_advisory_xact_lock(hashtext('relay.housekeeping'))"
    )
    return locked


async def list_partitions(pg: asyncpg.Connection) -> list[Partition]:
    """The attached partitions of the inbox, the oldest first."""
    rows = await pg.fetch(
        """
        SELECT c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        WHERE h.inhparent = 'relay.inbox'::regclass AND NOT h.inhdetachpending
        """
    )
    found = []
    for row in rows:
        lower, upper = re.findall(r"'([^']+)'", row["bound"])
        found.append(
            Partition(
                row["name"].removeprefix("inbox_"),
                datetime.fromisoformat(lower),
                datetime.fromisoformat(upper),
            )
        )
    return sorted(found, key=lambda partition: partition.lower)


async def ensure_ahead(
    pg: asyncpg.Connection, *, retention_days: int, now: datetime | None = None
) -> int:
    """Make partitions until at least two whole ones lie ahead of ``now``; returns how many.

    ``now`` is PostgreSQL's unless a test gives it. A partition is made as a table of its own and
    then attached, which locks the parent only against other DDL, never against inserts.
    """
    async with pg.transaction():
        await pg.execute("SET LOCAL timezone = 'UTC'; SET LOCAL lock_timeout = '2s'")
        await pg.execute("SELECT pg_advisory_xact_lock(hashtext('relay.partitions'))")
        if now is None:
            now = await pg.fetchval("SELECT now()")
        existing = await list_partitions(pg)
        step = width(retention_days)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        # A gap (nobody kept house for months) is never filled: nothing was received in it.
        start = existing[-1].upper if existing and existing[-1].upper > now else midnight
        made = 0
        while start <= now + 2 * step:
            await _create(pg, start, start + step)
            start += step
            made += 1
        return made


async def _create(pg: asyncpg.Connection, lower: datetime, upper: datetime) -> None:
    # With lz4 a body is compressed in place; without it, what fits a page stays inline as it is.
    compressed = await pg.fetchval(
        "SELECT attcompression <> '' FROM pg_attribute"
        " WHERE attrelid = 'relay.inbox'::regclass AND attname = 'body'"
    )
    suffix = lower.strftime("p%Y%m%d" if lower.time() == datetime.min.time() else "p%Y%m%d%H%M%S")
    bounds = f"FROM ('{lower.isoformat()}') TO ('{upper.isoformat()}')"
    within = f"received_at >= '{lower.isoformat()}' AND received_at < '{upper.isoformat()}'"
    for parent in PARTITIONED:
        name = f"relay.{parent}_{suffix}"
        # The CHECK spares ATTACH the scan; it has served its purpose then.
        await pg.execute(
            f"CREATE TABLE {name} (LIKE relay.{parent} INCLUDING ALL);"
            f"ALTER TABLE {name} ADD CONSTRAINT bounds CHECK ({within});"
            f"ALTER TABLE relay.{parent} ATTACH PARTITION {name} FOR VALUES {bounds};"
            f"ALTER TABLE {name} DROP CONSTRAINT bounds;"
        )
    if not compressed:
        await pg.execute(
            f"ALTER TABLE relay.inbox_{suffix} SET (toast_tuple_target = {INLINE_BYTES})"
        )


async def find_droppable(
    pg: asyncpg.Connection, *, retention_days: int, now: datetime | None = None
) -> list[Partition]:
    """Partitions wholly older than the retention into which nothing unfinished points.

    Unfinished is a row of the queue and an open dead letter.
    """
    if retention_days <= 0:
        return []
    if now is None:
        now = await pg.fetchval("SELECT now()")
    limit = now - timedelta(days=retention_days)
    droppable = []
    for partition in await list_partitions(pg):
        if partition.upper > limit:
            break
        if not await _has_unfinished(pg, partition):
            droppable.append(partition)
    return droppable


async def _has_unfinished(pg: asyncpg.Connection, partition: Partition) -> bool:
    found: bool = await pg.fetchval(
        """
        SELECT EXISTS (SELECT FROM relay.queue WHERE received_at >= $1 AND received_at < $2)
            OR EXISTS (SELECT FROM relay.dead_letter
                       WHERE received_at >= $1 AND received_at < $2
                         AND replayed_at IS NULL AND discarded_at IS NULL)
        """,
        partition.lower,
        partition.upper,
    )
    return found


async def drop(pg: asyncpg.Connection, partition: Partition) -> bool:
    """Take one partition pair out; returns False when something unfinished came in between.

    Must run outside a transaction: DETACH … CONCURRENTLY, because a DROP would lock the parent
    against every insert. A drop that is interrupted is completed by ``finish_drops``.
    """
    mark = f"{_DROP_MARK} {partition.lower.isoformat()} {partition.upper.isoformat()}"
    for parent in PARTITIONED:
        await pg.execute(f"COMMENT ON TABLE relay.{parent}_{partition.suffix} IS '{mark}'")
    return await _complete_drop(pg, partition)


async def finish_drops(pg: asyncpg.Connection) -> int:
    """Complete the drops that were interrupted; returns how many there were."""
    marked = await pg.fetch(
        """
        SELECT DISTINCT substring(c.relname FROM '_(p[0-9]+)$') AS suffix, d.description AS mark
        FROM pg_class c JOIN pg_description d ON d.objoid = c.oid AND d.objsubid = 0
        WHERE c.relnamespace = 'relay'::regnamespace AND starts_with(d.description, $1)
        """,
        _DROP_MARK,
    )
    for row in marked:
        lower, upper = map(datetime.fromisoformat, row["mark"].split()[-2:])
        await _complete_drop(pg, Partition(row["suffix"], lower, upper))
    return len(marked)


async def _complete_drop(pg: asyncpg.Connection, partition: Partition) -> bool:
    inbox, receipt = (f"relay.{parent}_{partition.suffix}" for parent in PARTITIONED)
    await _detach(pg, "inbox", partition)
    # The detach waited for all who saw the rows, so this look is certain: a replay that it does not
    # find cannot reach them any more.
    if await _has_unfinished(pg, partition):
        await pg.execute(
            f"ALTER TABLE relay.inbox ATTACH PARTITION {inbox}"
            f" FOR VALUES FROM ('{partition.lower.isoformat()}')"
            f" TO ('{partition.upper.isoformat()}');"
            f"COMMENT ON TABLE {inbox} IS NULL; COMMENT ON TABLE {receipt} IS NULL"
        )
        return False
    await _detach(pg, "receipt", partition)
    await pg.execute(f"DROP TABLE IF EXISTS {inbox}; DROP TABLE IF EXISTS {receipt}")
    return True


async def _detach(pg: asyncpg.Connection, parent: str, partition: Partition) -> None:
    name = f"relay.{parent}_{partition.suffix}"
    pending = await pg.fetchval(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)", name
    )
    if pending is not None:
        how = "FINALIZE" if pending else "CONCURRENTLY"
        await pg.execute(f"ALTER TABLE relay.{parent} DETACH PARTITION {name} {how}")


async def prune(pg: asyncpg.Connection, *, retention_days: int) -> int:
    """Delete the small rows that pointed into dropped partitions; returns how many.

    Event keys stay for 35 days at least, longer than Stripe resends an event. At most 10,000 rows
    of each kind a call.
    """
    if retention_days <= 0:
        return 0
    oldest = await list_partitions(pg)
    if not oldest:
        return 0
    edge = oldest[0].lower
    deleted = 0
    for statement in (
        """DELETE FROM relay.event_key WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM relay.event_key
             WHERE received_at < least($1, now() - interval '35 days') LIMIT 10000))""",
        """DELETE FROM relay.dead_letter WHERE id = ANY (ARRAY(
             SELECT id FROM relay.dead_letter WHERE received_at < $1 LIMIT 10000))""",
        """DELETE FROM relay.attempt WHERE id = ANY (ARRAY(
             SELECT id FROM relay.attempt WHERE failed_at < $1 LIMIT 10000))""",
    ):
        deleted += int((await pg.execute(statement, edge)).split()[-1])
    return deleted
