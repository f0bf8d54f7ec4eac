"""All that is stored of one event: what proves how it came, what was tried and where it went."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import deadletters, events, redactions
from relay.store.events import Filter
from relay.store.redactions import Redaction

MOST_ROWS = 500
"""Of the records, failures and actions of one event: an invoice may have thousands of lines."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One event as ``relay.events`` has it, and everything that other tables say of it.

    ``body`` is the beginning of what was received, all of it where ``body_bytes`` of the event says
    so. Each list has the oldest first, and at most ``MOST_ROWS``.
    """

    event: dict[str, Any]
    signature_header: str | None
    body: bytes
    receipts: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    redaction: Redaction | None
    actions: list[dict[str, Any]]


async def of_event(connection: AsyncConnection, inbox_id: int, *, body_bytes: int) -> Proof | None:
    """The proof of one event, with the first ``body_bytes`` of its body; None: no such event."""
    found = await events.list_events(connection, Filter(inbox_id=inbox_id), limit=1)
    if not found:
        return None
    (event,) = found
    place = {"id": inbox_id, "received_at": event["received_at"], "most": MOST_ROWS}
    received = (await connection.execute(text(_RECEIVED), place | {"bytes": body_bytes})).one()
    letters = await deadletters.list_dead_letters(
        connection, Filter(inbox_id=inbox_id), limit=MOST_ROWS, open_only=False
    )
    told = await redactions.of_events(connection, [inbox_id])
    return Proof(
        event=event,
        signature_header=received.signature_header,
        body=received.body,
        receipts=await _rows(connection, _RECEIPTS, place),
        failures=await _rows(connection, _FAILURES, place),
        dead_letters=letters[::-1],
        redaction=told.get(inbox_id),
        actions=await _rows(
            connection, _ACTIONS, place | {"letters": [letter["id"] for letter in letters]}
        ),
    )


async def body_of(connection: AsyncConnection, inbox_id: int) -> bytes | None:
    """The exact bytes; None when there is no such event, or nothing is left of its body."""
    found = await connection.execute(text("SELECT relay.body(:id)"), {"id": inbox_id})
    body: bytes | None = found.scalar_one()
    return body


async def find_ids(connection: AsyncConnection, event_id: str) -> list[int]:
    """The inbox ids of an event id, which may have come to several sources."""
    found = await connection.execute(
        text("SELECT inbox_id FROM relay.event_key WHERE event_id = :id ORDER BY 1 LIMIT 100"),
        {"id": event_id},
    )
    return list(found.scalars())


async def _rows(
    connection: AsyncConnection, statement: str, given: dict[str, Any]
) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in await connection.execute(text(statement), given)]


_RECEIVED = """
SELECT signature_header, substring(body FROM 1 FOR :bytes) AS body
FROM relay.inbox WHERE id = :id AND received_at = :received_at
"""

_RECEIPTS = """
SELECT produced_at, CASE kind WHEN 0 THEN 'event' ELSE 'dead_letter' END AS kind, record, topic,
       partition, "offset", key, op, skipped, attempts::integer AS attempts, replay_id
FROM relay.receipt WHERE inbox_id = :id AND received_at = :received_at
ORDER BY produced_at, number, record LIMIT :most
"""

_FAILURES = """
SELECT failed_at, error_code, error FROM relay.attempt WHERE inbox_id = :id ORDER BY id LIMIT :most
"""

# What was done to many events at once names them by a filter, and is not among these. Nothing was
# done with an event before it came, by the clock of a server that may have been another one.
_ACTIONS = """
SELECT at, who, action, target, reason FROM relay.operator_log
WHERE at >= CAST(:received_at AS timestamptz) - interval '1 day' AND (
    action IN ('event.retry', 'event.skip', 'event.replay')
        AND coalesce(details -> 'queued', details) -> 'ids' @> to_jsonb(CAST(:id AS bigint))
    OR action IN ('dead_letter.replay', 'dead_letter.discard') AND EXISTS (
        SELECT FROM unnest(CAST(:letters AS bigint[])) letter
        WHERE coalesce(details -> 'queued', details) -> 'ids' @> to_jsonb(letter)))
ORDER BY id LIMIT :most
"""
