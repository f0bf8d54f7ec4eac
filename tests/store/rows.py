"""Events in the inbox and what becomes of them, without a Kafka: the forwarder's part by hand."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import asyncpg

from relay.core.routing import key_of, lane_of
from relay.store import inbox, queue, receipts
from relay.store.events import Operator
from relay.store.inbox import NewEvent
from relay.store.queue import Parking, QueueRow
from relay.store.receipts import Death, Receipt, Settled

OPERATOR = Operator("ann@desk", "asked to")

_number = itertools.count(1)


def new_event(source_id: int, event_id: str | None = None, **changes: Any) -> NewEvent:
    """A customer's event; ``changes`` are fields of NewEvent."""
    event_id = event_id or f"evt_{next(_number)}"
    object_id = changes.get("object_id", "cus_1")
    body = changes.get("body", b'{"id": "%s"}' % event_id.encode("utf-8", "replace"))
    identity = event_id if object_id is None else object_id
    lane, key_hash = lane_of(key_of(identity))
    fields: dict[str, Any] = {
        "source_id": source_id,
        "event_id": event_id,
        "event_type": "customer.updated",
        "object_type": "customer",
        "object_id": object_id,
        "account": None,
        "livemode": False,
        "api_version": "2026-08-26.dahlia",
        "event_created": 1_780_000_000,
        "origin": "webhook",
        "signature_header": "t=1,v1=00",
        "body": body,
        "body_sha256": hashlib.sha256(body).digest(),
        "lane": lane,
        "key_hash": key_hash,
    }
    return NewEvent(**(fields | changes))


async def put(pg: asyncpg.Connection, *events: NewEvent) -> list[bool]:
    """One call in a transaction of its own."""
    async with pg.transaction():
        return await inbox.put(pg, events)


async def store(pg: asyncpg.Connection, *events: NewEvent) -> list[int]:
    """Put events that are all new; their inbox ids."""
    assert all(await put(pg, *events))
    return [await inbox_id(pg, event) for event in events]


async def inbox_id(pg: asyncpg.Connection, event: NewEvent) -> int:
    found: int = await pg.fetchval(
        "SELECT inbox_id FROM relay.event_key WHERE event_id = $1 AND source_id = $2",
        event.event_id,
        event.source_id,
    )
    return found


async def row_of(pg: asyncpg.Connection, inbox_id: int, kind: int = 0) -> QueueRow:
    """The queue row of an event, as a claim reads it."""
    found = await pg.fetchrow(
        """
        SELECT source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind, attempts,
               crashes, alone, replay_id
        FROM relay.queue WHERE inbox_id = $1 AND kind = $2
        """,
        inbox_id,
        kind,
    )
    assert found is not None, f"event {inbox_id} is not queued"
    return QueueRow(*found)


async def deliver(pg: asyncpg.Connection, inbox_id: int, records: int = 1, kind: int = 0) -> None:
    """As many records were acknowledged."""
    places = tuple(
        Receipt("customer", 0, 100 + number, '{"id":"cus_1"}', "u") for number in range(records)
    )
    async with pg.transaction():
        await receipts.settle(pg, [Settled(await row_of(pg, inbox_id, kind), places)], None)


async def leave_out(pg: asyncpg.Connection, inbox_id: int, reason: str = "unselected") -> None:
    """The transform said: skip it."""
    async with pg.transaction():
        await receipts.settle(pg, [Settled(await row_of(pg, inbox_id), (), reason)], None)


async def fail(pg: asyncpg.Connection, inbox_id: int, seconds: float = 3600.0) -> None:
    """It failed by itself and will be tried again."""
    row = await row_of(pg, inbox_id)
    parking = Parking(row, seconds, "transform_error", "it broke", row.attempts + 1)
    async with pg.transaction():
        await queue.park(pg, [parking])


async def bury(
    pg: asyncpg.Connection, *inbox_ids: int, copy: bool = False, code: str = "too_large"
) -> None:
    """They can never work."""
    async with pg.transaction():
        await receipts.bury(pg, [await _death(pg, each, copy, code) for each in inbox_ids])


async def _death(pg: asyncpg.Connection, inbox_id: int, copy: bool, code: str) -> Death:
    row = await row_of(pg, inbox_id)
    event = await pg.fetchrow(
        "SELECT event_id, event_type FROM relay.inbox WHERE id = $1", inbox_id
    )
    assert event is not None
    hashed = lane_of(key_of(event["event_id"]))[1] if copy else None
    return Death(
        row, event["event_id"], event["event_type"], code, "no use", row.attempts + 1, hashed
    )


async def letters_of(pg: asyncpg.Connection, *inbox_ids: int) -> list[int]:
    """The open dead letters of events."""
    rows = await pg.fetch(
        "SELECT id FROM relay.dead_letter WHERE inbox_id = ANY ($1)"
        " AND replayed_at IS NULL AND discarded_at IS NULL ORDER BY id",
        inbox_ids,
    )
    return [row["id"] for row in rows]


async def states(pg: asyncpg.Connection, *inbox_ids: int) -> list[str]:
    """What relay.events says: all rows of these events, in order of their ids."""
    rows: Sequence[asyncpg.Record] = await pg.fetch(
        "SELECT state FROM relay.events WHERE id = ANY ($1) ORDER BY id, state", inbox_ids
    )
    return [row["state"] for row in rows]


async def is_waiting(pg: asyncpg.Connection, *, count: int = 1) -> bool:
    """Whether so many backends of this database wait for a lock.

    They are not told apart: a pooler does not say which of them serves a connection.
    """
    # Within a transaction the list of backends would stay that of the first look.
    await pg.execute("SELECT pg_stat_clear_snapshot()")
    waiting: int = await pg.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return waiting >= count
