"""The work of snapshots: ranges that are taken up, claimed, read a page further and given back.

A range that is locked belongs to the transaction that locked it: the page's rows, the cursor and
the counts are committed together, and a process that dies lets go of its ranges where they stood
before the page in hand.
"""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import msgspec

from relay.core.routing import LANES
from relay.core.scan import Position
from relay.store.text import storable


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed range with what its snapshot says about it.

    ``at`` is the scan of the resource's list; where it is read parent by parent, that of the
    parents, ``parents`` are those whose own lists are still to be read, the first one's down to
    ``child_cursor``. Otherwise ``parents`` is None. ``failures`` counts attempts at the page in
    hand, ``readers`` the ranges of the same list, this one included.
    """

    id: int
    snapshot_id: str
    source_id: int
    resource: str
    pass_: int
    at: Position
    api_version: str
    livemode: bool
    created_after: int | None
    created_before: int | None
    failures: int
    parents: tuple[str, ...] | None
    parents_done: bool
    child_cursor: str | None
    last_error: str | None
    readers: int


_COLUMNS = """
    g.id, g.snapshot_id, n.source_id, g.resource, g.pass, g.created_from, g.created_until,
    g.cursor, g.last_created, g.failures, g.last_error, g.parents, g.parents_cursor,
    g.parents_done, n.api_version, n.livemode, n.created_after, n.created_before, n.window_until,
    (SELECT count(*) FROM relay.snapshot_range o
     WHERE o.snapshot_id = g.snapshot_id AND o.resource = g.resource AND o.pass = g.pass
       AND o.state = 'running') AS readers
"""

# Of the list that was read the longest ago the range that has waited longest: all resources and
# snapshots get their turn, and one list, whose rate is a quarter of the account's, is not asked
# twice in a row. A wait that begins in the future was written before the server's clock was set
# back. One statement that is its own transaction, and does not wait for the disk.
_TAKE_UP = f"""
WITH quick AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), next AS MATERIALIZED (
    SELECT g.id
    FROM relay.snapshot_range g
    JOIN relay.snapshot n ON n.id = g.snapshot_id
    JOIN (
        SELECT snapshot_id, resource, max(updated_at) AS read_at
        FROM relay.snapshot_range WHERE state = 'running' GROUP BY snapshot_id, resource
    ) list ON list.snapshot_id = g.snapshot_id AND list.resource = g.resource
    WHERE g.state = 'running' AND n.state = 'running'
      AND (g.wait_until IS NULL OR clock_timestamp() NOT BETWEEN g.updated_at AND g.wait_until)
    ORDER BY list.read_at NULLS FIRST, g.updated_at NULLS FIRST, g.id LIMIT 1
    FOR NO KEY UPDATE OF g SKIP LOCKED
)
UPDATE relay.snapshot_range g
SET wait_until = clock_timestamp() + make_interval(secs => $1), wait_reason = NULL,
    updated_at = clock_timestamp()
FROM quick, next, relay.snapshot n
WHERE g.id = next.id AND n.id = g.snapshot_id
RETURNING {_COLUMNS}
"""  # noqa: S608 - a constant of ours

_CLAIM = f"""
SELECT {_COLUMNS}
FROM relay.snapshot_range g JOIN relay.snapshot n ON n.id = g.snapshot_id
WHERE g.id = $1 AND g.state = 'running' AND n.state = 'running'
FOR NO KEY UPDATE OF g SKIP LOCKED
"""  # noqa: S608 - a constant of ours

BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    "SET LOCAL synchronous_commit = on;"
    "SET LOCAL idle_in_transaction_session_timeout = {idle_ms}"
)


async def take_up(pg: asyncpg.Connection, seconds: float) -> Range | None:
    """The next range that can be read on, kept from everybody else's `take_up` for so long.

    Time to wait for a turn at Stripe without holding a transaction; `claim` is what locks it. It
    need not survive a crash of the server. ``pg`` is not in a transaction.
    """
    while True:
        try:
            row = await pg.fetchrow(_TAKE_UP, seconds)
        except asyncpg.SerializationError:
            continue  # the server's default is stricter than READ COMMITTED; others were faster
        return None if row is None else _range(row)


async def claim(pg: asyncpg.Connection, range_id: int) -> Range | None:
    """Lock a range as it stands now, for as long as the caller's transaction lasts.

    None when somebody else has it, or when it is not to be read any more.
    """
    row = await pg.fetchrow(_CLAIM, range_id)
    return None if row is None else _range(row)


def _range(row: asyncpg.Record) -> Range:
    parents = row["parents"]
    until = row["created_until"] or row["window_until"]
    return Range(
        id=row["id"],
        snapshot_id=row["snapshot_id"],
        source_id=row["source_id"],
        resource=row["resource"],
        pass_=row["pass"],
        at=Position(
            created_from=_seconds(row["created_from"]),
            created_until=_seconds(until),
            cursor=row["cursor"] if parents is None else row["parents_cursor"],
            last_created=_seconds(row["last_created"]),
        ),
        api_version=row["api_version"],
        livemode=row["livemode"],
        created_after=_seconds(row["created_after"]),
        created_before=_seconds(row["created_before"]),
        failures=row["failures"],
        parents=None if parents is None else tuple(parents),
        parents_done=row["parents_done"],
        child_cursor=None if parents is None else row["cursor"],
        last_error=row["last_error"],
        readers=row["readers"],
    )


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one page changes about its range."""

    at: Position
    parents: tuple[str, ...] | None
    parents_done: bool
    child_cursor: str | None
    done: bool


async def step(
    pg: asyncpg.Connection, claimed: Range, step: Step, *, objects: int, requests: int
) -> None:
    """Move a claimed range forward by a page that took so many requests.

    In the transaction that stores the ``objects`` of it that were new.
    """
    cursor, parents, parents_cursor = _cursors(step)
    await pg.execute(
        """
        WITH frozen AS (
            UPDATE relay.snapshot SET window_until = $3::timestamptz
            WHERE id = $11 AND window_until IS NULL AND $3::timestamptz IS NOT NULL
        )
        UPDATE relay.snapshot_range
        SET created_from = $2, created_until = $3, cursor = $4, last_created = $5,
            objects = objects + $6, pages = pages + 1,
            requests = requests + $12, parents = $7, parents_cursor = $8, parents_done = $9,
            state = CASE WHEN $10 THEN 'finished' ELSE state END,
            finished_at = CASE WHEN $10 THEN clock_timestamp() END,
            started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp(),
            failures = 0, wait_until = NULL, wait_reason = NULL
        WHERE id = $1
        """,
        claimed.id,
        _moment(step.at.created_from),
        _moment(step.at.created_until),
        cursor,
        _moment(step.at.last_created),
        objects,
        parents,
        parents_cursor,
        step.parents_done,
        step.done,
        claimed.snapshot_id,
        requests,
    )


async def add_reader(pg: asyncpg.Connection, claimed: Range, older: Position, most: int) -> bool:
    """Make a second range of the older half of a claimed one, unless ``most`` are at work already.

    The caller has cut the claimed one down in the same transaction when this returns True.
    """
    # With the snapshot locked, so that no range is made behind the back of who changes them all.
    # Not waited for: whoever holds it may be waiting for our range.
    if not await pg.fetchval(
        "SELECT 1 FROM relay.snapshot WHERE id = $1 AND state = 'running'"
        " FOR NO KEY UPDATE SKIP LOCKED",
        claimed.snapshot_id,
    ):
        return False
    made = await pg.execute(
        """
        INSERT INTO relay.snapshot_range
            (snapshot_id, resource, pass, state, created_from, created_until, parents)
        SELECT $1, $2, $3, 'running', $4, $5, $6
        WHERE (SELECT count(*) FROM relay.snapshot_range
               WHERE snapshot_id = $1 AND resource = $2 AND pass = $3 AND state = 'running') < $7
        """,
        claimed.snapshot_id,
        claimed.resource,
        claimed.pass_,
        _moment(older.created_from),
        _moment(older.created_until),
        None if claimed.parents is None else [],
        most,
    )
    return int(made.split()[-1]) > 0


async def reposition(pg: asyncpg.Connection, claimed: Range, step: Step) -> None:
    """Move a claimed range without a page: what its cursor names is gone."""
    cursor, parents, parents_cursor = _cursors(step)
    await pg.execute(
        """
        UPDATE relay.snapshot_range
        SET created_until = $2, cursor = $3, parents = $4, parents_cursor = $5,
            state = CASE WHEN $6 THEN 'finished' ELSE state END,
            finished_at = CASE WHEN $6 THEN clock_timestamp() END,
            updated_at = clock_timestamp(), wait_until = NULL, wait_reason = NULL
        WHERE id = $1
        """,
        claimed.id,
        _moment(step.at.created_until),
        cursor,
        parents,
        parents_cursor,
        step.done,
    )


async def count_requests(pg: asyncpg.Connection, claimed: Range, requests: int) -> None:
    """So many more requests to the Stripe API, which brought no page; see ``step``."""
    await pg.execute(
        "UPDATE relay.snapshot_range SET requests = requests + $2 WHERE id = $1",
        claimed.id,
        requests,
    )


async def wait(
    pg: asyncpg.Connection,
    claimed: Range,
    *,
    seconds: float,
    reason: str,
    failures: int,
    limited: bool = False,
) -> None:
    """Have a claimed range rest after a failed request; ``failures`` is their new number."""
    await pg.execute(
        """
        UPDATE relay.snapshot_range
        SET wait_until = clock_timestamp() + make_interval(secs => $2), wait_reason = $3,
            failures = $4, limited = limited + $5::boolean::integer, last_error = $3,
            started_at = coalesce(started_at, clock_timestamp()), updated_at = clock_timestamp()
        WHERE id = $1
        """,
        claimed.id,
        seconds,
        storable(reason),
        failures,
        limited,
    )


async def wait_for_turn(pg: asyncpg.Connection, range_id: int, seconds: float) -> None:
    """Have a range rest that was taken up or claimed, because the rate has no turn for it yet."""
    await pg.execute(
        """
        UPDATE relay.snapshot_range
        SET wait_until = clock_timestamp() + make_interval(secs => $2),
            wait_reason = 'its turn by the rate limit', updated_at = clock_timestamp()
        WHERE id = $1
        """,
        range_id,
        seconds,
    )


async def fail_snapshot(pg: asyncpg.Connection, claimed: Range, error: str) -> None:
    """End a whole snapshot for good, like ``fail_resource``; its locked ranges follow by and by."""
    await pg.execute(
        """
        UPDATE relay.snapshot SET state = 'failed', last_error = $2, finished_at = clock_timestamp()
        WHERE id = $1 AND state = 'running'
        """,
        claimed.snapshot_id,
        storable(error),
    )


async def fail_resource(pg: asyncpg.Connection, claimed: Range, error: str) -> None:
    """End a resource of a snapshot for good; `relay snapshot resume` takes it up again.

    On a claimed range. The others of the resource that are being read end at their next page.
    """
    await pg.execute(
        """
        UPDATE relay.snapshot_range
        SET state = 'failed', last_error = $3, wait_until = NULL, wait_reason = NULL,
            updated_at = clock_timestamp()
        WHERE id IN (
            SELECT id FROM relay.snapshot_range
            WHERE snapshot_id = $1 AND resource = $2 AND state = 'running'
            FOR NO KEY UPDATE SKIP LOCKED)
        """,
        claimed.snapshot_id,
        claimed.resource,
        storable(error),
    )


async def close_snapshots(pg: asyncpg.Connection) -> list[tuple[str, str]]:
    """End the snapshots of which nothing is left to read; their ids and how they ended.

    In a transaction of its own, after that of a range: of two that end at the same moment neither
    sees the other's.
    """
    await pg.execute(
        """
        UPDATE relay.snapshot_range g
        SET state = 'failed', last_error = coalesce(n.last_error, g.last_error),
            wait_until = NULL, wait_reason = NULL, updated_at = clock_timestamp()
        FROM relay.snapshot n
        WHERE n.id = g.snapshot_id AND n.state = 'failed' AND g.state = 'running'
        """
    )
    ended = await pg.fetch(
        """
        UPDATE relay.snapshot n
        SET state = CASE
                WHEN EXISTS (SELECT FROM relay.snapshot_range
                             WHERE snapshot_id = n.id AND state = 'failed') THEN 'failed'
                WHEN EXISTS (SELECT FROM relay.snapshot_range
                             WHERE snapshot_id = n.id AND state = 'cancelled') THEN 'cancelled'
                ELSE 'finished' END,
            finished_at = clock_timestamp()
        WHERE n.state = 'running'
          AND NOT EXISTS (SELECT FROM relay.snapshot_range
                          WHERE snapshot_id = n.id AND state IN ('running', 'paused'))
        RETURNING n.id, n.state
        """
    )
    return [(row["id"], row["state"]) for row in ended]


async def has_claimable_work(pg: asyncpg.Connection, most: int) -> bool:
    """Whether the queue holds more than ``most`` rows that a forwarder could take now.

    Rows of paused and halted sources do not count, nor do parked ones and what waits behind them.
    Of each lane only the first ``most`` rows are looked at: a million behind a parked one cost no
    more, and hide no more than their own lane.
    """
    found: bool = await pg.fetchval(
        """
        SELECT count(*) > $1 FROM (
            SELECT FROM relay.source s
            CROSS JOIN LATERAL (
                -- In its order: one probe, also where nearly all rows are another source's.
                SELECT FROM relay.queue WHERE source_id = s.id ORDER BY lane, number LIMIT 1
            ) busy
            CROSS JOIN generate_series(0, $2 - 1) AS l (lane)
            CROSS JOIN LATERAL (
                SELECT visible_at, key_hash, number FROM relay.queue
                WHERE source_id = s.id AND lane = l.lane ORDER BY number LIMIT $1 + 1
            ) q
            WHERE s.paused_at IS NULL AND s.halted_at IS NULL AND s.deleted_at IS NULL
              AND (q.visible_at IS NULL OR q.visible_at <= now())
              AND q.number <= coalesce((
                  SELECT min(p.number) FROM relay.queue p
                  WHERE p.source_id = s.id AND p.lane = l.lane AND p.key_hash = q.key_hash
                    AND p.visible_at > now()), q.number)
            LIMIT $1 + 1
        ) claimable
        """,
        most,
        LANES,
    )
    return found


def _cursors(step: Step) -> tuple[str | None, list[str] | None, str | None]:
    """``cursor``, ``parents`` and ``parents_cursor``, as ``claim`` reads them."""
    if step.parents is None:
        return step.at.cursor, None, None
    return step.child_cursor, list(step.parents), step.at.cursor


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
