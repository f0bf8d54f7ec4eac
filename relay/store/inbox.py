"""The one door into the inbox: receiver, snapshots and reconciliation all come through ``put``."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import asyncpg
import msgspec

from relay.core.errors import RelayError
from relay.core.event import Event
from relay.core.routing import key_of, lane_of, record_key
from relay.core.source import SourceConfig
from relay.store.text import storable

# A sample of refused requests is for finding the mistake, not for keeping what anybody sends.
REFUSED_SAMPLE_BYTES = 64 * 1024
REFUSED_SAMPLES_PER_SOURCE = 1000


class NoPartitionError(RelayError):
    """There is no partition to store into: no process has kept house for long."""

    default_code = "no_partition"


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event on its way into the inbox.

    ``event_created`` is in Unix seconds. With ``dead_code`` it is stored as a dead letter and not
    queued; ``dead_copy`` queues the copy for the dead letter topic.
    """

    source_id: int
    event_id: str
    event_type: str | None
    object_type: str | None
    object_id: str | None
    account: str | None
    livemode: bool | None
    api_version: str | None
    event_created: int | None
    origin: str
    signature_header: str | None
    body: bytes
    body_sha256: bytes
    lane: int
    key_hash: int
    dead_code: str | None = None
    dead_error: str | None = None
    dead_copy: bool = False


def new_event(
    event: Event, body: bytes, *, source_id: int, origin: str, signature_header: str | None
) -> NewEvent:
    """The row of an event that can be relayed; ``body`` is what ``event`` was read from."""
    lane, key_hash = lane_of(record_key(event))
    return NewEvent(
        source_id=source_id,
        event_id=event.event_id,
        event_type=event.event_type,
        object_type=event.object_type,
        object_id=event.object_id,
        account=event.account,
        livemode=event.livemode,
        api_version=event.api_version,
        event_created=event.created,
        origin=origin,
        signature_header=signature_header,
        body=body,
        body_sha256=sha256(body).digest(),
        lane=lane,
        key_hash=key_hash,
    )


def rejected_event(
    body: bytes,
    source: SourceConfig,
    *,
    origin: str,
    signature_header: str | None,
    code: str,
    message: str,
) -> NewEvent:
    """The row of genuine bytes that are no event which can be relayed: it claims nothing of them.

    Its id is made of the bytes, so that it can never stand in the way of a genuine event.
    """
    digest = sha256(body)
    event_id = f"rejected:{digest.hexdigest()}"
    lane, key_hash = lane_of(key_of(event_id))
    return NewEvent(
        source_id=source.source_id,
        event_id=event_id,
        event_type=None,
        object_type=None,
        object_id=None,
        account=None,
        livemode=None,
        api_version=None,
        event_created=None,
        origin=origin,
        signature_header=signature_header,
        body=body,
        body_sha256=digest.digest(),
        lane=lane,
        key_hash=key_hash,
        dead_code=code,
        dead_error=message,
        dead_copy=source.dlq and bool(source.dlq_topic),
    )


# Store events that are new, queue them, and tell which they were.
# The ids are drawn first and in the order of arrival: they are the order of the line. The keys are
# inserted in their own order, because two batches with the same ids in another order deadlock.
_PUT = """
WITH given AS MATERIALIZED (
    SELECT g.*, nextval('relay.arrival') AS id
    FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[],
                $8::text[], $9::bigint[], $10::text[], $11::text[], $12::bytea[],
                $13::bytea[], $14::smallint[], $15::bigint[], $16::text[], $17::text[],
                $18::bool[]) WITH ORDINALITY
      AS g(source_id, event_id, event_type, object_type, object_id, account, livemode,
           api_version, event_created, origin, signature_header, body,
           body_sha256, lane, key_hash, dead_code, dead_error, dead_copy, ord)
), keyed AS (
    INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)
    SELECT event_id, source_id, id, now() FROM given ORDER BY event_id COLLATE "C", source_id, id
    ON CONFLICT DO NOTHING
    RETURNING inbox_id
), fresh AS (
    SELECT given.* FROM given JOIN keyed ON keyed.inbox_id = given.id
), stored AS (
    INSERT INTO relay.inbox (id, received_at, source_id, event_id, event_type, object_type,
        object_id, account, livemode, api_version, event_created, origin, signature_header, body,
        body_sha256)
    SELECT id, now(), source_id, event_id, event_type, object_type, object_id, account, livemode,
        api_version, to_timestamp(event_created), origin, signature_header, body, body_sha256
    FROM fresh
), queued AS (
    INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind)
    SELECT source_id, lane, id, id, now(), key_hash, octet_length(body),
        CASE WHEN dead_code IS NULL THEN 0 ELSE 1 END
    FROM fresh WHERE dead_code IS NULL OR dead_copy
), dead AS (
    INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, event_type,
        error_code, error, attempts)
    SELECT source_id, id, now(), event_id, event_type, dead_code, coalesce(dead_error, ''), 0
    FROM fresh WHERE dead_code IS NOT NULL
)
SELECT ord FROM fresh
"""


async def put(pg: asyncpg.Connection, events: Sequence[NewEvent]) -> list[bool]:
    """Store events; True for each one that is new, False for one that the inbox already holds.

    The caller opened the transaction, and nothing is held before it commits. Of several with the
    same key in one call the first is stored. Raises NoPartitionError, and what asyncpg raises.
    """
    if not events:
        return []
    columns = [list(column) for column in zip(*map(_row, events), strict=True)]
    # `unnest` fills up what is missing: a column of NULLs, as most are, need not be sent.
    sent = [None if column.count(None) == len(column) else column for column in columns]
    try:
        fresh = await pg.fetch(_PUT, *sent)
    except asyncpg.CheckViolationError as error:
        # PostgreSQL's word for a row without a partition, which is no fault of the row.
        if error.constraint_name is None:
            raise NoPartitionError from error
        raise
    stored = [False] * len(events)
    for (position,) in fresh:
        stored[position - 1] = True
    return stored


async def find_namesakes(pg: asyncpg.Connection, events: Sequence[NewEvent]) -> set[str]:
    """The ids by which the inbox holds events about objects of another type than these say."""
    if not events:
        return set()
    found = await pg.fetch(
        """
        SELECT g.event_id
        FROM unnest($1::text[], $2::int[], $3::text[]) AS g (event_id, source_id, object_type)
        JOIN relay.event_key k ON k.event_id = g.event_id AND k.source_id = g.source_id
        JOIN relay.inbox i ON i.id = k.inbox_id AND i.received_at = k.received_at
        WHERE i.object_type IS DISTINCT FROM g.object_type
        """,
        [event.event_id for event in events],
        [event.source_id for event in events],
        [event.object_type for event in events],
    )
    return {row["event_id"] for row in found}


def _row(event: NewEvent) -> tuple[object, ...]:
    return (
        event.source_id,
        event.event_id,
        event.event_type,
        event.object_type,
        event.object_id,
        event.account,
        event.livemode,
        event.api_version,
        event.event_created,
        event.origin,
        event.signature_header,
        event.body,
        event.body_sha256,
        event.lane,
        event.key_hash,
        event.dead_code,
        None if event.dead_error is None else storable(event.dead_error),
        event.dead_copy or None,
    )


async def keep_refused(
    pg: asyncpg.Connection, source_id: int, code: str, error: str, body: bytes
) -> None:
    """Keep a sample of a refused request beside the dead letters: at most 64 KiB of its body.

    It is no event: it was not answered 2xx and cannot be replayed.
    """
    await pg.execute(
        """
        INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, refused_body)
        VALUES ($1, $2, $3, 0, $4)
        """,
        source_id,
        code,
        storable(error),
        body[:REFUSED_SAMPLE_BYTES],
    )


async def prune_refused(pg: asyncpg.Connection) -> int:
    """Keep the newest samples of each source and delete the rest; returns how many went."""
    done = await pg.execute(
        """
        DELETE FROM relay.dead_letter WHERE id IN (
            SELECT id FROM (
                SELECT id, row_number() OVER (PARTITION BY source_id ORDER BY id DESC) AS place
                FROM relay.dead_letter WHERE inbox_id IS NULL
            ) sample WHERE place > $1
        )
        """,
        REFUSED_SAMPLES_PER_SOURCE,
    )
    return int(done.split()[-1])
