"""Settling: what leaves the queue leaves a receipt or a dead letter, in the same transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

import asyncpg
import msgspec

from relay.store.queue import QueueRow
from relay.store.tables import QUEUE_DEAD_LETTER_COPY, QUEUE_EVENT
from relay.store.text import storable


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The place of one record in Kafka."""

    topic: str
    partition: int
    offset: int
    key: str
    op: str


class Settled(msgspec.Struct, frozen=True, gc=False):
    """A row that is done: its records in order, or the reason why it was skipped."""

    row: QueueRow
    receipts: tuple[Receipt, ...]
    skipped: str | None = None


class Death(msgspec.Struct, frozen=True, gc=False):
    """A row that can never work. ``copy_key_hash`` queues a copy for the dead letter topic."""

    row: QueueRow
    event_id: str
    event_type: str | None
    code: str
    error: str
    attempts: int
    copy_key_hash: int | None


class DeadLetterHead(msgspec.Struct, frozen=True):
    """What the copy of a dead letter says about it."""

    code: str
    error: str
    attempts: int


async def read_dead_letters(
    pg: asyncpg.Connection, inbox_ids: Sequence[int]
) -> dict[int, DeadLetterHead]:
    """The newest dead letter of each event, by inbox id."""
    rows = await pg.fetch(
        """
        SELECT DISTINCT ON (inbox_id) inbox_id, error_code, error, attempts
        FROM relay.dead_letter WHERE inbox_id = ANY ($1) ORDER BY inbox_id, id DESC
        """,
        inbox_ids,
    )
    return {row["inbox_id"]: DeadLetterHead(*tuple(row)[1:]) for row in rows}


# Rows out, the receipts of their first records in, the note away: one statement, one round trip for
# the whole batch. What a receipt repeats of its row comes out of the queue, and is not sent to it.
_SETTLE = """
WITH gone AS (
    DELETE FROM relay.queue q
    USING unnest($1::int[], $2::smallint[], $3::bigint[], $4::text[], $5::int[], $6::bigint[],
                 $7::text[], $8::text[], $9::text[])
        AS d (source_id, lane, number, topic, partition, "offset", key, op, skipped)
    WHERE q.source_id = d.source_id AND q.lane = d.lane AND q.number = d.number
    RETURNING q.inbox_id, q.received_at, q.number, q.kind, q.attempts, q.replay_id,
        d.topic, d.partition, d."offset", d.key, d.op, d.skipped
), proof AS (
    INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts, replay_id,
        topic, partition, "offset", key, op, skipped, produced_at)
    SELECT inbox_id, received_at, number, 0, kind, attempts, replay_id,
        topic, partition, "offset", key, op, skipped, clock_timestamp()
    FROM gone
), note AS (
    DELETE FROM relay.batch_note WHERE id = $10
)
SELECT count(*) FROM gone
"""

# Those of the second record of a row, and of all after it.
_PROVE_MORE = """
INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts, replay_id,
    topic, partition, "offset", key, op, produced_at)
SELECT *, clock_timestamp()
FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::int[], $5::smallint[],
    $6::smallint[], $7::text[], $8::text[], $9::int[], $10::bigint[], $11::text[], $12::text[])
"""

_NOWHERE = (None, None, None, None, None)


async def settle(pg: asyncpg.Connection, settled: Sequence[Settled], note_id: UUID | None) -> None:
    """Take rows out of the queue with their receipts, and withdraw the note of the batch.

    Raises RuntimeError when a row was not there: somebody settled it without holding its lane, and
    the transaction must be rolled back. Raises ValueError for a row without a proof.
    """
    columns = [list(column) for column in zip(*map(_leaving, settled), strict=True)]
    gone = await pg.fetchval(_SETTLE, *(columns or [[]] * 9), note_id)
    if gone != len(settled):
        raise RuntimeError(
            f"{len(settled) - gone} of {len(settled)} rows were settled by someone else"
        )
    more = [proof for each in settled if len(each.receipts) > 1 for proof in _proofs_of_more(each)]
    if more:
        await pg.execute(_PROVE_MORE, *map(list, zip(*more, strict=True)))


def _leaving(settled: Settled) -> tuple[object, ...]:
    """A row on its way out of the queue, with what proves that it may go."""
    row = settled.row
    place = (row.source_id, row.lane, row.number)
    if settled.skipped is not None:
        return (*place, *_NOWHERE, settled.skipped)
    if not settled.receipts:
        raise ValueError(f"nothing proves that row {row.number} was delivered")
    first = settled.receipts[0]
    return (*place, first.topic, first.partition, first.offset, first.key, first.op, None)


def _proofs_of_more(settled: Settled) -> Iterator[tuple[object, ...]]:
    row = settled.row
    for number, each in enumerate(settled.receipts[1:], start=1):
        yield (
            row.inbox_id,
            row.received_at,
            row.number,
            number,
            row.kind,
            row.attempts,
            row.replay_id,
            each.topic,
            each.partition,
            each.offset,
            each.key,
            each.op,
        )


async def bury(pg: asyncpg.Connection, deaths: Sequence[Death]) -> None:
    """Move events from the queue to the dead letters.

    With ``copy_key_hash`` the event's row makes way for one that carries the copy for the dead
    letter topic, at the end of the same lane.
    """
    gone = await pg.fetchval(
        """
        WITH given AS (
            SELECT * FROM unnest($1::int[], $2::smallint[], $3::bigint[], $4::text[], $5::text[],
                                 $6::text[], $7::text[], $8::smallint[], $9::bigint[])
                AS g (source_id, lane, number, event_id, event_type, code, error, attempts, copy)
        ), gone AS (
            DELETE FROM relay.queue q USING given g
            WHERE q.source_id = g.source_id AND q.lane = g.lane AND q.number = g.number
              AND q.kind = $10
            RETURNING q.inbox_id, q.received_at, q.bytes, g.*
        ), dead AS (
            INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, event_type,
                error_code, error, attempts)
            SELECT source_id, inbox_id, received_at, event_id, event_type, code, error, attempts
            FROM gone
        ), copied AS (
            INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash,
                bytes, kind)
            SELECT source_id, lane, nextval('relay.arrival'), inbox_id, received_at, copy, bytes,
                $11
            FROM gone WHERE copy IS NOT NULL
            -- Dead again while its first copy still waits: one copy is enough.
            ON CONFLICT (inbox_id, kind) DO NOTHING
        )
        SELECT count(*) FROM gone
        """,
        [death.row.source_id for death in deaths],
        [death.row.lane for death in deaths],
        [death.row.number for death in deaths],
        [death.event_id for death in deaths],
        [death.event_type for death in deaths],
        [death.code for death in deaths],
        [storable(death.error) for death in deaths],
        [death.attempts for death in deaths],
        [death.copy_key_hash for death in deaths],
        QUEUE_EVENT,
        QUEUE_DEAD_LETTER_COPY,
    )
    if gone != len(deaths):
        raise RuntimeError(f"{len(deaths) - gone} of {len(deaths)} rows were settled elsewhere")
