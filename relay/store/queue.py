"""The line of unfinished events: lanes, claims, notes and what becomes of a claimed row.

The hot statements run on raw asyncpg connections, in transactions that the forwarder opens.

A lane that is locked belongs to the transaction that locked it, and so do all rows in it; nothing
else marks a row as taken. Whoever wants to be sure that a row is not in flight locks its lane.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from relay.core.transform import StoredEvent
from relay.store.redaction_tables import IS_REDACTED
from relay.store.text import storable

# One round trip. READ COMMITTED is stated whatever the server's default: each statement must see
# what was committed before it. A client that is frozen while idle is ended by the server itself.
# Plans are kept for minutes, and one that was made while the queue or the newest partition was
# empty would read the whole of it, however long it has grown, for every claim and every row. Where
# a table has to be read whole after all, such as that of the notes, it then looks so dear to
# PostgreSQL before 18 that JIT would compile the statement for seconds, each time anew.
BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    "SET LOCAL synchronous_commit = on;"
    "SET LOCAL enable_seqscan = off;"
    "SET LOCAL jit = off;"
    "SET LOCAL idle_in_transaction_session_timeout = {idle_ms}"
)

# Lock lanes that have something to do, from a given one on, passing over those that others hold.
# Lanes under a note rest: the transaction that wrote it is lost, its records may still arrive.
_LOCK_LANES = """
SELECT l.source_id, l.lane FROM relay.lane l
WHERE (l.source_id, l.lane) >= ($1::int, $2::smallint)
  AND l.source_id IN (SELECT id FROM relay.source WHERE paused_at IS NULL AND halted_at IS NULL
                      AND deleted_at IS NULL)
  AND EXISTS (
      SELECT FROM relay.queue q WHERE q.source_id = l.source_id AND q.lane = l.lane
      AND (q.visible_at IS NULL OR q.visible_at <= now()))
  AND NOT EXISTS (
      SELECT FROM relay.batch_note n, unnest(n.source_ids, n.lanes) AS r (source_id, lane)
      WHERE r.source_id = l.source_id AND r.lane = l.lane)
ORDER BY l.source_id, l.lane LIMIT $3
FOR NO KEY UPDATE OF l SKIP LOCKED
"""

# The first rows of each locked lane, in order. A second statement, because the snapshot of the
# locking one may still show rows that the lane's last owner has just deleted; for the same reason
# the notes are looked at again. A row behind a parked one of its key waits for it.
_READ_LANES = """
SELECT q.* FROM unnest($1::int[], $2::smallint[]) AS l (source_id, lane)
JOIN relay.source s ON s.id = l.source_id
CROSS JOIN LATERAL (
    SELECT q.source_id, q.lane, q.number, q.inbox_id, q.received_at, q.key_hash, q.bytes, q.kind,
           q.attempts, q.crashes, q.alone, q.replay_id, s.updated_at
    FROM relay.queue q
    WHERE q.source_id = l.source_id AND q.lane = l.lane
      AND (q.visible_at IS NULL OR q.visible_at <= now())
      AND NOT EXISTS (
          SELECT FROM relay.queue p
          WHERE p.source_id = q.source_id AND p.lane = q.lane AND p.key_hash = q.key_hash
            AND p.number < q.number AND p.visible_at > now())
    ORDER BY q.number LIMIT $3
) q
WHERE NOT EXISTS (
    SELECT FROM relay.batch_note n, unnest(n.source_ids, n.lanes) AS r (source_id, lane)
    WHERE r.source_id = l.source_id AND r.lane = l.lane)
"""

_WRITE_NOTE = """
INSERT INTO relay.batch_note
    (id, process_id, backend_pid, started_at, source_ids, lanes, numbers)
VALUES ($1, $2, $3, clock_timestamp(), $4, $5, $6)
"""

# LATERAL with a LIMIT: always one probe per event, whatever the planner believes of the table.
# An empty body that is not what was received has been redacted: then there is none.
_READ_EVENTS = f"""
SELECT i.id, i.event_id, i.event_type, i.object_type, i.object_id, i.account, i.livemode,
       i.api_version, extract(epoch FROM i.event_created)::bigint AS created, i.origin,
       CASE WHEN NOT {IS_REDACTED} THEN i.body END AS body,
       w.replay_id
FROM unnest($1::bigint[], $2::timestamptz[], $3::text[]) AS w (id, received_at, replay_id)
CROSS JOIN LATERAL (
    SELECT * FROM relay.inbox i WHERE i.id = w.id AND i.received_at = w.received_at LIMIT 1
) i
"""  # noqa: S608 - a constant of ours


class QueueRow(msgspec.Struct, frozen=True, gc=False):
    """One place in the line. ``number`` orders it within its lane.

    ``settings_at``, where the row was claimed: when the settings of its source were last changed.
    """

    source_id: int
    lane: int
    number: int
    inbox_id: int
    received_at: datetime
    key_hash: int
    bytes: int
    kind: int
    attempts: int
    crashes: int
    alone: bool
    replay_id: str | None
    settings_at: datetime | None = None


class Parking(msgspec.Struct, frozen=True, gc=False):
    """A row that goes back into the line: not before ``seconds`` from now.

    ``attempts`` is its new count; it does not grow when the failure was not its own. ``alone`` has
    it tried in a batch of its own.
    """

    row: QueueRow
    seconds: float
    code: str
    error: str
    attempts: int
    alone: bool = False


async def lock_lanes(
    pg: asyncpg.Connection, start: tuple[int, int], limit: int
) -> list[tuple[int, int]]:
    """Lock up to ``limit`` lanes that have claimable rows, from ``start`` on and then round."""
    lanes = [tuple(row) for row in await pg.fetch(_LOCK_LANES, *start, limit)]
    if len(lanes) < limit and start > (0, 0):
        seen = set(lanes)
        rest = await pg.fetch(_LOCK_LANES, 0, 0, limit - len(lanes))
        lanes += [lane for row in rest if (lane := tuple(row)) not in seen]
    return lanes


async def read_lanes(
    pg: asyncpg.Connection, lanes: Sequence[tuple[int, int]], rows_per_lane: int
) -> list[QueueRow]:
    """The first claimable rows of lanes that this transaction has locked, in order per lane."""
    source_ids, numbers = zip(*lanes, strict=True)
    rows = await pg.fetch(_READ_LANES, source_ids, numbers, rows_per_lane)
    return [QueueRow(*row) for row in rows]


async def write_note(
    pg: asyncpg.Connection,
    note_id: UUID,
    process_id: UUID,
    backend_pid: int,
    rows: Sequence[QueueRow],
) -> None:
    """Commit what is about to be produced, on a connection other than the claiming one."""
    lanes = sorted({(row.source_id, row.lane) for row in rows})
    await pg.execute(
        _WRITE_NOTE,
        note_id,
        process_id,
        backend_pid,
        [source_id for source_id, _ in lanes],
        [lane for _, lane in lanes],
        [row.number for row in rows],
    )


async def renew_note(pg: asyncpg.Connection, note_id: UUID) -> None:
    """Let the fence of a note begin now; its lanes must still be locked, see ``confirm_locks``."""
    await pg.execute(
        "UPDATE relay.batch_note SET started_at = clock_timestamp() WHERE id = $1", note_id
    )


async def confirm_locks(pg: asyncpg.Connection) -> None:
    """Raises when the transaction is lost, and with it the lanes that it has locked."""
    await pg.fetchval("SELECT 1")


async def read_events(pg: asyncpg.Connection, rows: Sequence[QueueRow]) -> dict[int, StoredEvent]:
    """The events of claimed rows, by inbox id.

    On the claiming connection and after the note: its answer proves that the lanes were still
    locked when the note had been committed, so whoever gets them later sees the note.
    """
    found = await pg.fetch(
        _READ_EVENTS,
        [row.inbox_id for row in rows],
        [row.received_at for row in rows],
        [row.replay_id for row in rows],
    )
    events: dict[int, StoredEvent] = {}
    for record in found:
        event = StoredEvent(*tuple(record))
        # A replayed event may stand beside the copy of its dead letter, which has no replay.
        if event.replay_id is not None or event.inbox_id not in events:
            events[event.inbox_id] = event
    return events


async def find_superseded(
    pg: asyncpg.Connection, asked: Sequence[tuple[int, StoredEvent]]
) -> set[int]:
    """Which snapshot events say less than a live event of their object that is in the inbox.

    ``asked`` are sources and events, whose ``created`` is the second at which the page was asked
    for; a live event says more when it was created then or later. Of the same type, account and
    mode, since other objects may have the same id: the price of a plan, say, or a coupon of a
    connected account. Returns inbox ids.
    """
    found = await pg.fetch(
        """
        SELECT w.id
        FROM unnest($1::bigint[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bool[],
                    $7::float8[])
            AS w (id, source_id, object_type, object_id, account, livemode, seconds)
        WHERE EXISTS (
            SELECT FROM relay.inbox live
            WHERE live.object_id = w.object_id AND live.source_id = w.source_id
              AND live.object_type IS NOT DISTINCT FROM w.object_type
              AND live.account IS NOT DISTINCT FROM w.account
              AND live.livemode IS NOT DISTINCT FROM w.livemode
              AND live.origin <> 'snapshot' AND live.event_created >= to_timestamp(w.seconds))
        """,
        [event.inbox_id for _, event in asked],
        [source_id for source_id, _ in asked],
        [event.object_type for _, event in asked],
        [event.object_id for _, event in asked],
        [event.account for _, event in asked],
        [event.livemode for _, event in asked],
        [event.created for _, event in asked],
    )
    return {row["id"] for row in found}


async def park(pg: asyncpg.Connection, parkings: Sequence[Parking]) -> None:
    """Put rows aside and write the history of those that failed by themselves."""
    await pg.execute(
        """
        WITH given AS (
            SELECT * FROM unnest($1::int[], $2::smallint[], $3::bigint[], $4::float8[], $5::text[],
                                 $6::text[], $7::smallint[], $8::bool[])
                AS g (source_id, lane, number, seconds, code, error, attempts, alone)
        ), failed AS (
            INSERT INTO relay.attempt (inbox_id, number, error_code, error)
            SELECT q.inbox_id, q.number, g.code, g.error
            FROM given g JOIN relay.queue q USING (source_id, lane, number)
            WHERE g.attempts > q.attempts
        )
        UPDATE relay.queue q
        SET visible_at = clock_timestamp() + make_interval(secs => g.seconds),
            attempts = g.attempts, last_error_code = g.code, last_error = g.error,
            alone = g.alone
        FROM given g
        WHERE q.source_id = g.source_id AND q.lane = g.lane AND q.number = g.number
        """,
        [parking.row.source_id for parking in parkings],
        [parking.row.lane for parking in parkings],
        [parking.row.number for parking in parkings],
        [parking.seconds for parking in parkings],
        [parking.code for parking in parkings],
        [storable(parking.error) for parking in parkings],
        [parking.attempts for parking in parkings],
        [parking.alone for parking in parkings],
    )


async def delete_note(pg: asyncpg.Connection, note_id: UUID) -> None:
    """Withdraw a note, when nothing of its batch can reach Kafka any more."""
    await pg.execute("DELETE FROM relay.batch_note WHERE id = $1", note_id)


class CrashedBatch(msgspec.Struct, frozen=True):
    """What ``take_dead_note`` found. ``dead`` have crashed alone too often, in order."""

    note_id: UUID
    suspects: int
    dead: tuple[QueueRow, ...]


async def find_dead_notes(pg: asyncpg.Connection, fence_seconds: float) -> list[UUID]:
    """Notes so old that the records of their batch cannot arrive any more."""
    found = await pg.fetch(
        """
        SELECT id FROM relay.batch_note
        WHERE started_at < clock_timestamp() - make_interval(secs => $1)
        """,
        fence_seconds,
    )
    return [row["id"] for row in found]


async def take_dead_note(
    pg: asyncpg.Connection, note_id: UUID, max_crashes: int
) -> CrashedBatch | None:
    """Free the lanes of a batch whose process died, and mark its rows as suspects.

    None when the batch is alive after all: its lanes are still locked. In the caller's
    transaction, which afterwards holds the lanes itself. A row that was a suspect already, and so
    alone in its process, has one crash more; a batch that only happened to have one row had others
    beside it.
    """
    lanes = await pg.fetch(
        """
        SELECT l.source_id, l.lane, n.wanted
        FROM relay.lane l JOIN (
            SELECT r.source_id, r.lane, cardinality(b.lanes) AS wanted
            FROM relay.batch_note b, unnest(b.source_ids, b.lanes) AS r (source_id, lane)
            WHERE b.id = $1
        ) n ON n.source_id = l.source_id AND n.lane = l.lane
        FOR NO KEY UPDATE OF l SKIP LOCKED
        """,
        note_id,
    )
    if not lanes or len(lanes) < lanes[0]["wanted"]:
        return None
    note = await pg.fetchrow(
        "DELETE FROM relay.batch_note WHERE id = $1 RETURNING source_ids, lanes, numbers", note_id
    )
    if note is None:
        return None
    rows = await pg.fetch(
        """
        UPDATE relay.queue q
        SET alone = true,
            crashes = least(
                q.crashes + (q.alone AND cardinality($3::bigint[]) = 1)::integer, 32000)
        FROM unnest($1::int[], $2::smallint[]) AS l (source_id, lane)
        WHERE q.source_id = l.source_id AND q.lane = l.lane AND q.number = ANY ($3)
        RETURNING q.source_id, q.lane, q.number, q.inbox_id, q.received_at, q.key_hash, q.bytes,
                  q.kind, q.attempts, q.crashes, q.alone, q.replay_id
        """,
        note["source_ids"],
        note["lanes"],
        note["numbers"],
    )
    suspects = sorted((QueueRow(*row) for row in rows), key=lambda row: row.number)
    dead = tuple(row for row in suspects if row.crashes >= max_crashes)
    return CrashedBatch(note_id, len(suspects), dead)


async def halt(pg: asyncpg.Connection, row: QueueRow, code: str, error: str) -> None:
    """Stop forwarding a source at a row that can never work and may not become a dead letter."""
    await pg.execute(
        """
        UPDATE relay.source
        SET halted_at = clock_timestamp(), halted_code = $2, halted_error = $3, halted_number = $4
        WHERE id = $1 AND halted_at IS NULL
        """,
        row.source_id,
        code,
        storable(error),
        row.number,
    )
