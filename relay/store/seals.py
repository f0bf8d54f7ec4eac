"""Sealing the inbox: which rows are next, and the chain that they are put into.

Rows are found by the transaction that stored them. What lies below the oldest transaction that is
still running is complete: nothing can be committed into it any more. So seals go forward over
half-open ranges of transaction ids, and neither gaps nor late commits matter to them. Whoever
stores events knows nothing of all this: no lock is shared with the insert path.

Transaction ids are of one cluster. After a dump was restored into another one they begin anew, the
rows keep their old ones, and new rows may have ids that seem to be done. So when the server is
another one than that of the last seal (or there is no seal yet) *all* rows are gone through once,
those that seem to be of the future, too; what is in a seal already is passed over, here and always.
After that it goes on from the oldest transaction that was running at the beginning.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import asyncpg
import msgspec

from relay.core.seal import GENESIS, day_of, leaf, seal
from relay.store.engine import READ_COMMITTED
from relay.store.partitions import list_marked

SEAL_ROWS = 1000
"""At most so many rows in one seal."""

ROUND_SEALS = 2000
"""After so many a round ends, and the next one goes on."""

# Transactions looked at in one go: never more than these rows, unless one transaction alone has
# stored them. Whether they are more is asked by reading them, so that guessing badly, again and
# again, would cost more than sealing does: see ``_next_width``.
_FIRST_WIDTH = 4096
_STEP_ROWS = 100_000
_CHANGE = 8
_LAST_XACT = 2**63 - 1


class Head(msgspec.Struct, frozen=True):
    """The newest seal."""

    number: int
    sha256: bytes


class Sealed(msgspec.Struct, frozen=True):
    """What one round did: seals with rows in them, their rows, and the end of the chain."""

    seals: int = 0
    rows: int = 0
    head: Head | None = None


class _Place(msgspec.Struct, frozen=True):
    """How far it is: rows of transactions before ``xact`` are sealed.

    ``resume`` is set while all rows are gone through: there it goes on afterwards.
    """

    cluster: int
    xact: int
    resume: int | None


class _Batch(msgspec.Struct, frozen=True):
    """Rows of one day in one partition, in the order of their ids."""

    day: date
    rows: list[Any]


async def may_seal(pg: asyncpg.Connection) -> bool:
    """Whether there is a table for seals, and this role may read the inbox and add to it."""
    allowed: bool | None = await pg.fetchval(
        """
        SELECT has_table_privilege(seal.oid, 'SELECT') AND has_table_privilege(seal.oid, 'INSERT')
           AND has_table_privilege('relay.inbox', 'SELECT')
        FROM pg_class seal WHERE seal.oid = to_regclass('relay.seal')
        """
    )
    return bool(allowed)


async def read_head(pg: asyncpg.Connection) -> Head | None:
    """The end of the chain; None while nothing is sealed."""
    row = await pg.fetchrow("SELECT number, sha256 FROM relay.seal ORDER BY number DESC LIMIT 1")
    return None if row is None else Head(*row)


async def seal_round(pg: asyncpg.Connection, *, limit: int = ROUND_SEALS) -> Sealed:
    """Seal what is complete, in short transactions, until all of it or ``limit`` seals are done.

    The caller holds the lock of the housekeeping.
    """
    place, saved = await _begin(pg), True
    if place.resume is not None and await list_marked(pg):
        # A partition that is on its way out may come back: all rows would not be all.
        return Sealed(head=await read_head(pg))
    width = _FIRST_WIDTH
    seals = rows = 0
    while seals < limit:
        step = await _step(pg, place, width)
        seals += step.seals
        rows += step.rows
        if step.seals:
            saved = True
        elif place.resume is not None:
            saved = False
        place = step.place
        if step.is_last:
            break
        width = _next_width(step)
    head = await read_head(pg)
    if not saved and head is not None:
        # All rows were gone through without finding new ones: that is not to be done again.
        async with pg.transaction(isolation=READ_COMMITTED):
            head = await _append(pg, head, None, place, walk=True)
    return Sealed(seals, rows, head)


async def _begin(pg: asyncpg.Connection) -> _Place:
    row = await pg.fetchrow(
        """
        SELECT c.system_identifier AS here, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
               AS horizon, s.cluster, s.xact_until, s.resume_xact
        FROM pg_control_system() c
        LEFT JOIN (SELECT * FROM relay.seal ORDER BY number DESC LIMIT 1) s ON true
        """
    )
    assert row is not None
    is_walking = row["resume_xact"] is not None
    goes_on = row["cluster"] == row["here"] and (is_walking or row["xact_until"] <= row["horizon"])
    if goes_on:
        return _Place(row["here"], row["xact_until"], row["resume_xact"])
    return _Place(row["here"], 0, row["horizon"])


class _Step(msgspec.Struct, frozen=True):
    """One transaction: what it looked at and sealed, and where the next one begins.

    ``seen`` rows were in ``width`` transactions, and ``rows`` of them had no seal yet.
    """

    place: _Place
    width: int
    seen: int
    rows: int
    seals: int
    is_last: bool


def _next_width(step: _Step) -> int:
    """So many transactions as would hold three quarters of the limit, if they are like the last."""
    aim = _STEP_ROWS * 3 // 4
    return max(min(step.width * aim // max(step.seen, 1), step.width * _CHANGE), 1)


async def _step(pg: asyncpg.Connection, place: _Place, width: int) -> _Step:
    async with pg.transaction(isolation=READ_COMMITTED):
        # The planner guesses that a third of the inbox lies ahead, and would read all of it.
        await pg.execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL jit = off;"  # see queue.BEGIN
            "SET LOCAL work_mem = '32MB'"  # a step is sorted without a file
        )
        until, after, is_last = await _range(pg, place, width)
        head = await read_head(pg)
        seen = rows = seals = 0
        complete = until if place.resume is None else place.resume
        async for batch in _read(pg, place.xact, until, complete):
            seen += len(batch.rows)
            fresh = await _without_sealed(pg, batch)
            if fresh.rows:
                head = await _append(pg, head, fresh, after, walk=place.resume is not None)
                rows += len(fresh.rows)
                seals += 1
    return _Step(after, until - place.xact, seen, rows, seals, is_last)


async def _range(pg: asyncpg.Connection, place: _Place, width: int) -> tuple[int, _Place, bool]:
    """The end of the transactions to look at, the place behind them, and whether it is the end."""
    end = _LAST_XACT if place.resume else await pg.fetchval(_HORIZON)
    until = min(place.xact + width, end)
    while until - place.xact > 1 and await pg.fetchval(_IS_MUCH, place.xact, until, _STEP_ROWS):
        until = place.xact + max((until - place.xact) // _CHANGE, 1)
    if place.resume is None:
        return until, _Place(place.cluster, until, None), until == end
    if await pg.fetchval("SELECT EXISTS (SELECT FROM relay.inbox WHERE xact_id >= $1)", until):
        return until, _Place(place.cluster, until, place.resume), False
    return until, _Place(place.cluster, place.resume, None), False


_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_IS_MUCH = """
SELECT EXISTS (SELECT FROM relay.inbox WHERE xact_id >= $1 AND xact_id < $2 OFFSET $3)
"""


# A seal never spans two days, and no two partitions. What a snapshot shows of transactions after
# itself was not stored in this cluster.
_ROWS = """
SELECT id, event_id, received_at, body_sha256, tableoid
FROM relay.inbox WHERE xact_id >= $1 AND xact_id < $2
  AND (xact_id < $3 OR xact_id >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint)
ORDER BY (received_at AT TIME ZONE 'UTC')::date, tableoid, id
"""


async def _read(
    pg: asyncpg.Connection, begin: int, until: int, complete: int
) -> AsyncIterator[_Batch]:
    """The rows that transactions of a range stored, in parts of which each may be one seal.

    Of this cluster only those before ``complete``.
    """
    batch: _Batch | None = None
    partition = None
    async for row in pg.cursor(_ROWS, begin, until, complete, prefetch=SEAL_ROWS):
        day = day_of(row["received_at"])
        same = batch is not None and batch.day == day and partition == row["tableoid"]
        if batch is None or not same or len(batch.rows) == SEAL_ROWS:
            if batch is not None:
                yield batch
            batch, partition = _Batch(day, []), row["tableoid"]
        batch.rows.append(row)
    if batch is not None:
        yield batch


async def _without_sealed(pg: asyncpg.Connection, batch: _Batch) -> _Batch:
    found = await pg.fetch(
        "SELECT ids FROM relay.seal WHERE day = $1 AND last_id >= $2 AND first_id <= $3",
        batch.day,
        batch.rows[0]["id"],
        batch.rows[-1]["id"],
    )
    sealed = {each for row in found for each in row["ids"]}
    return _Batch(batch.day, [row for row in batch.rows if row["id"] not in sealed])


async def _append(
    pg: asyncpg.Connection, head: Head | None, batch: _Batch | None, place: _Place, *, walk: bool
) -> Head:
    """Put one seal at the end of the chain; without rows it only says how far things are."""
    number = 1 if head is None else head.number + 1
    previous = GENESIS if head is None else head.sha256
    rows = [] if batch is None else batch.rows
    ids = [row["id"] for row in rows]
    leaves = b"".join(
        leaf(row["id"], row["event_id"], row["received_at"], row["body_sha256"]) for row in rows
    )
    day: date = (
        await pg.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date") if batch is None else batch.day
    )
    digest = seal(previous, number, day, leaves)
    await pg.execute(
        """
        INSERT INTO relay.seal (number, previous, sha256, day, count, first_id, last_id, ids,
            leaves, sealed_at, cluster, xact_until, resume_xact, walk)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp(), $10, $11, $12, $13)
        """,
        number,
        previous,
        digest,
        day,
        len(ids),
        min(ids, default=None),
        max(ids, default=None),
        ids,
        leaves,
        place.cluster,
        place.xact,
        place.resume,
        walk,
    )
    return Head(number, digest)


async def prune(pg: asyncpg.Connection) -> int:
    """Delete the beginning of the chain as far as its partitions are gone; returns how many seals.

    At most 10,000 a call. The newest seal stays: the next one is chained to it.
    """
    done = await pg.execute(
        r"""
        DELETE FROM relay.seal WHERE number < (
            SELECT min(s.number) FROM relay.seal s
            WHERE s.number = (SELECT max(number) FROM relay.seal) OR s.count > 0 AND s.day >= (
                SELECT min((lower AT TIME ZONE 'UTC')::date) FROM (
                    SELECT (regexp_match(pg_get_expr(c.relpartbound, c.oid),
                                         $re$FROM \('([^']+)'\)$re$))[1]::timestamptz AS lower
                    FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
                    WHERE h.inhparent = 'relay.inbox'::regclass) kept))
          AND number < (SELECT min(number) + 10000 FROM relay.seal)
        """
    )
    return int(done.split()[-1])
