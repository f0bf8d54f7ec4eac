"""Partitions of the inbox and the receipts: made ahead, dropped when the retention has passed.

Both tables are cut at the same moments, by ``received_at`` of the inbox row, so that a join on it
prunes and both go together.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import ownership
from relay.store.engine import READ_COMMITTED

PARTITIONED = ("inbox", "receipt")
_NAME = re.compile(r"(inbox|receipt)_p\d{8}(\d{6})?")

INLINE_BYTES = 8160

# Set on a partition of the inbox before it is detached, so that only what the retention took out is
# dropped later, and never a partition that somebody detached by hand to keep it.
_DROP_MARK = "relay: retention has passed"

DROPPED = "partition.drop"
"""The word for it in the operator log; the target is where it began and ended."""

# DETACH waits for every transaction that has seen the table, a forgotten one for days, and nobody
# can attach a partition meanwhile. After this long it is left for the next round.
DETACH_SECONDS = 20.0


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
    await _forget_snapshot(pg)
    return locked


async def lock_housekeeping(pg: asyncpg.Connection, seconds: float) -> None:
    """Be the only one that keeps house, after whoever is at it; raises LockNotAvailableError."""
    await pg.execute(f"SET LOCAL lock_timeout = {int(seconds * 1000)}")
    await pg.execute("SELECT pg_advisory_xact_lock(hashtext('relay.housekeeping'))")
    await _forget_snapshot(pg)


async def _forget_snapshot(pg: asyncpg.Connection) -> None:
    # A simple statement takes the place of that one, whose snapshot would stay as long as the
    # transaction: a detach that is to be finished waits for every older snapshot, and so for us.
    await pg.execute("SELECT 1")


async def list_partitions(pg: asyncpg.Connection) -> list[Partition]:
    """The attached partitions of the inbox, the oldest first."""
    # The bounds are read by the server, which wrote them in whatever style it is set to.
    rows = await pg.fetch(
        r"""
        SELECT substring(c.relname FROM '^inbox_(.*)') AS suffix,
               b.ends[1]::timestamptz AS lower, b.ends[2]::timestamptz AS upper
        FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        CROSS JOIN LATERAL regexp_match(
            pg_get_expr(c.relpartbound, c.oid), $re$FROM \('([^']+)'\) TO \('([^']+)'\)$re$
        ) AS b (ends)
        WHERE h.inhparent = 'relay.inbox'::regclass AND NOT h.inhdetachpending
          AND c.relname ~ '^inbox_' AND b.ends IS NOT NULL
        ORDER BY lower
        """
    )
    return [Partition(*row) for row in rows]


async def ensure_ahead(
    pg: asyncpg.Connection, *, retention_days: int, now: datetime | None = None
) -> int:
    """Make partitions from ``now`` on until two whole ones lie ahead; returns how many.

    ``now`` is PostgreSQL's unless a test gives it. A partition is made as a table of its own and
    then attached, which locks the parent only against other DDL, never against inserts.

    A role that cannot act as the owner has a function of the database do it. Raises
    InsufficientPrivilegeError when it may not, UndefinedFunctionError on a schema without it.
    """
    async with pg.transaction(isolation=READ_COMMITTED):
        await pg.execute("SET LOCAL timezone = 'UTC'")
        await pg.execute("SELECT pg_advisory_xact_lock(hashtext('relay.partitions'))")
        await pg.execute("SET LOCAL lock_timeout = '2s'")
        if now is None:
            now = await pg.fetchval("SELECT now()")
        missing = list(_missing(await list_partitions(pg), now, width(retention_days)))
        make = _create if missing and await ownership.act_as_owner(pg) else _have_created
        for lower, upper in missing:
            await make(pg, lower, upper)
        return len(missing)


def _missing(
    existing: Sequence[Partition], now: datetime, step: timedelta
) -> Iterator[tuple[datetime, datetime]]:
    """What is missing from the day of ``now`` on: a gap (the first day after months without
    housekeeping, a partition detached by hand) as well as what lies ahead of the last one.

    Gaps in the past stay: nothing was received in them.
    """
    start = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    end = now + 2 * step
    for partition in existing:
        while start < partition.lower and start <= end:
            upper = min(start + step, partition.lower)
            yield start, upper
            start = upper
        start = max(start, partition.upper)
    while start <= end:
        yield start, start + step
        start += step


async def _have_created(pg: asyncpg.Connection, lower: datetime, upper: datetime) -> None:
    await pg.execute("SELECT relay.make_partition($1, $2)", lower, upper)


async def _create(pg: asyncpg.Connection, lower: datetime, upper: datetime) -> None:
    # As relay.make_partition does it; that one is for the present and the near future only.
    # With lz4 a body is compressed in place; without it, what fits a page stays inline as it is.
    compressed = await pg.fetchval(
        "SELECT attcompression <> '' FROM pg_attribute"
        " WHERE attrelid = 'relay.inbox'::regclass AND attname = 'body'"
    )
    suffix = await _free_suffix(pg, lower)
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
            f"CREATE TRIGGER untruncated BEFORE TRUNCATE ON {name}"
            " FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();"
        )
    if not compressed:
        await pg.execute(
            f"ALTER TABLE relay.inbox_{suffix} SET (toast_tuple_target = {INLINE_BYTES})"
        )


async def _free_suffix(pg: asyncpg.Connection, lower: datetime) -> str:
    """The day; with a time when a table of that name was detached by hand and kept."""
    times = (lower + timedelta(seconds=number) for number in itertools.count())
    names = (moment.strftime("p%Y%m%d%H%M%S") for moment in times)
    for suffix in itertools.chain([lower.strftime("p%Y%m%d")], names):
        taken = await pg.fetchval(
            "SELECT to_regclass('relay.inbox_' || $1) IS NOT NULL"
            " OR to_regclass('relay.receipt_' || $1) IS NOT NULL",
            suffix,
        )
        if not taken:
            return suffix
    raise AssertionError("the names do not end")


async def find_droppable(
    pg: asyncpg.Connection, *, retention_days: int, now: datetime | None = None
) -> list[Partition]:
    """Partitions wholly older than the retention into which nothing unfinished points.

    Unfinished is a row of the queue and an open dead letter. None while a drop is under way:
    PostgreSQL refuses to detach a second partition.
    """
    due = await _due(pg, retention_days, now)
    if due is None or await list_marked(pg):
        return []
    return [
        partition
        for partition in await list_partitions(pg)
        if partition.upper <= due and not await _has_unfinished(pg, partition)
    ]


async def _due(
    pg: asyncpg.Connection, retention_days: int, now: datetime | None
) -> datetime | None:
    """The end of what may go; None when everything is kept."""
    if retention_days <= 0:
        return None
    if now is None:
        now = await pg.fetchval("SELECT now()")
    return now - timedelta(days=retention_days)


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


async def count_overdue(
    connection: AsyncConnection, *, retention_days: int, grace_days: int = 1
) -> int:
    """Partitions that should have been dropped more than ``grace_days`` ago; any role may ask.

    Nobody keeps house who may drop them, something unfinished holds them, or a drop is under way.
    """
    if retention_days <= 0:
        return 0
    counted = await connection.execute(
        text(
            r"""
            SELECT count(*) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
            WHERE h.inhparent = 'relay.inbox'::regclass
              AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$ TO \('([^']+)'\)$re$))[1]
                  ::timestamptz <= now() - make_interval(days => :days)
            """
        ),
        {"days": retention_days + grace_days},
    )
    found: int = counted.scalar_one()
    return found


async def drop(pg: asyncpg.Connection, partition: Partition) -> bool:
    """Take one partition pair out; returns False when something unfinished came in between, or
    when a transaction that has seen it does not end.

    Must run outside a transaction: DETACH … CONCURRENTLY, because a DROP would lock the parent
    against every insert. A drop that is interrupted is completed by ``finish_drops``.
    """
    mark = f"{_DROP_MARK} {partition.lower.isoformat()} {partition.upper.isoformat()}"
    await pg.execute(f"COMMENT ON TABLE relay.inbox_{partition.suffix} IS '{mark}'")
    return await _complete_drop(pg, partition)


async def finish_drops(
    pg: asyncpg.Connection, *, retention_days: int, now: datetime | None = None
) -> int:
    """Complete the drops that were interrupted; returns how many partitions went.

    One that the retention would keep by now, because it was made longer meanwhile, comes back.
    """
    due = await _due(pg, retention_days, now)
    dropped = 0
    for partition in await list_marked(pg):
        if due is None or partition.upper > due:
            await _restore(pg, partition)
        elif await _complete_drop(pg, partition):
            dropped += 1
    return dropped


async def list_marked(pg: asyncpg.Connection) -> list[Partition]:
    """The partitions of which a drop was begun, attached still or not."""
    marked = await pg.fetch(
        """
        SELECT substring(c.relname FROM '^inbox_(.*)') AS suffix, d.description AS mark
        FROM pg_class c
        JOIN pg_description d ON d.objoid = c.oid AND d.objsubid = 0
                             AND d.classoid = 'pg_class'::regclass
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relname ~ '^inbox_'
          AND starts_with(d.description, $1)
        ORDER BY suffix
        """,
        _DROP_MARK,
    )
    return [
        Partition(row["suffix"], *map(datetime.fromisoformat, row["mark"].split()[-2:]))
        for row in marked
    ]


async def _complete_drop(pg: asyncpg.Connection, partition: Partition) -> bool:
    if not await _detach(pg, "inbox", partition):
        return False
    # The detach waited for all who saw the rows, so this look is certain: a replay that it does not
    # find cannot reach them any more.
    if await _has_unfinished(pg, partition):
        await _restore(pg, partition)
        return False
    if not await _detach(pg, "receipt", partition):
        return False
    inbox, receipt = (f"relay.{parent}_{partition.suffix}" for parent in PARTITIONED)
    async with pg.transaction(isolation=READ_COMMITTED):
        await pg.execute(f"DROP TABLE IF EXISTS {inbox}; DROP TABLE IF EXISTS {receipt}")
        # An audit asks who took these rows.
        await pg.execute(
            "INSERT INTO relay.operator_log (who, action, target, reason)"
            " VALUES ('relay', $1, $2, 'the retention has passed')",
            DROPPED,
            f"{partition.lower.isoformat()} {partition.upper.isoformat()}",
        )
    return True


async def _detach(pg: asyncpg.Connection, parent: str, partition: Partition) -> bool:
    """Whether it is detached now."""
    name = f"relay.{parent}_{partition.suffix}"
    pending = await _detach_pending(pg, name)
    if pending is None:
        return True
    how = "FINALIZE" if pending else "CONCURRENTLY"
    try:
        await pg.execute(
            f"ALTER TABLE relay.{parent} DETACH PARTITION {name} {how}", timeout=DETACH_SECONDS
        )
    except TimeoutError:
        return False
    return True


async def _detach_pending(pg: asyncpg.Connection, name: str) -> bool | None:
    """Whether a detach was begun and not finished; None when it is no partition (any more)."""
    pending: bool | None = await pg.fetchval(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)", name
    )
    return pending


async def _restore(pg: asyncpg.Connection, partition: Partition) -> None:
    """Attach again what was detached for a drop, and take the mark away."""
    # The receipts first: an inbox row without them would seem to be in no state.
    for parent in reversed(PARTITIONED):
        name = f"relay.{parent}_{partition.suffix}"
        if await _detach_pending(pg, name) and not await _detach(pg, parent, partition):
            return
        if await _detach_pending(pg, name) is None:
            await pg.execute(
                f"ALTER TABLE relay.{parent} ATTACH PARTITION {name}"
                f" FOR VALUES FROM ('{partition.lower.isoformat()}')"
                f" TO ('{partition.upper.isoformat()}')"
            )
    await pg.execute(f"COMMENT ON TABLE relay.inbox_{partition.suffix} IS NULL")


_PRUNE_REDACTIONS = """DELETE FROM relay.redaction WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.redaction WHERE received_at < $1 LIMIT 10000))"""


async def prune(pg: asyncpg.Connection, *, retention_days: int) -> int:
    """Delete the small rows that pointed into dropped partitions; returns how many.

    Event keys stay for 35 days at least, longer than Stripe resends an event. At most 10,000 rows
    of each kind a call.
    """
    kept = await list_partitions(pg) + await list_marked(pg)
    if retention_days <= 0 or not kept:
        return 0
    edge = min(partition.lower for partition in kept)
    deleted = 0
    # Not yet there on the schema before.
    redactions = await pg.fetchval("SELECT to_regclass('relay.redaction') IS NOT NULL")
    for statement in (
        """DELETE FROM relay.event_key WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM relay.event_key
             WHERE received_at < least($1, now() - interval '35 days') LIMIT 10000))""",
        """DELETE FROM relay.dead_letter WHERE id = ANY (ARRAY(
             SELECT id FROM relay.dead_letter WHERE received_at < $1
               AND (replayed_at IS NOT NULL OR discarded_at IS NOT NULL) LIMIT 10000))""",
        """DELETE FROM relay.attempt WHERE id = ANY (ARRAY(
             SELECT id FROM relay.attempt WHERE failed_at < $1 LIMIT 10000))""",
        *([_PRUNE_REDACTIONS] if redactions else []),
    ):
        deleted += int((await pg.execute(statement, edge)).split()[-1])
    return deleted
