"""Dead letters: looking at them, sending them again, giving them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, column, false, select, table
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError, UnusableEvent
from relay.store.events import (
    Filter,
    Operator,
    conditions_on,
    discard_dead_letters,
    is_impossible,
    log,
)
from relay.store.redaction_tables import IS_REDACTED
from relay.store.replays import line_of, new_replay_id

_HEAD = (
    "id",
    "source",
    "inbox_id",
    "event_id",
    "event_type",
    "error_code",
    "error",
    "attempts",
    "dead_at",
    "replayed_at",
    "discarded_at",
)
_letters = table("dead_letters", *map(column, (*_HEAD, "body_text")), schema="relay")


class Replay(msgspec.Struct, frozen=True):
    """What a replay did.

    ``refused`` tells by dead letter id why it cannot be sent. ``overtaken`` are those of whose
    object a newer event has been delivered: consumers will see the older state again.
    """

    replay_id: str
    queued: tuple[int, ...]
    refused: dict[int, str]
    overtaken: tuple[int, ...]


def _conditions(wanted: Filter, *, open_only: bool) -> list[ColumnElement[bool]]:
    c = _letters.c
    if wanted.state not in (None, "dead"):
        raise ConfigError(f"dead letters have no state {wanted.state!r}: leave the state out")
    if is_impossible(wanted):
        return [false()]
    conditions = conditions_on(wanted, c, inbox_id="inbox_id", error="error_code", moment="dead_at")
    if open_only:
        conditions += [c.replayed_at.is_(None), c.discarded_at.is_(None)]
    if wanted.object is not None:
        of_object = sql("SELECT id FROM relay.inbox WHERE object_id = :object").bindparams(
            object=wanted.object
        )
        conditions.append(c.inbox_id.in_(of_object.columns(column("id"))))
    return conditions


async def list_dead_letters(
    connection: AsyncConnection,
    wanted: Filter,
    *,
    limit: int = 50,
    before_id: int | None = None,
    open_only: bool = True,
) -> list[dict[str, Any]]:
    """Dead letters that fit, the newest first, without their bodies."""
    statement = (
        select(*(_letters.c[name] for name in _HEAD))
        .where(*_conditions(wanted, open_only=open_only))
        .order_by(_letters.c.id.desc())
        .limit(limit)
    )
    if before_id is not None:
        statement = statement.where(_letters.c.id < before_id)
    return [dict(row._mapping) for row in await connection.execute(statement)]


async def find_ids(connection: AsyncConnection, wanted: Filter) -> list[int]:
    """The ids of all open dead letters that fit, in the order of their events."""
    statement = select(_letters.c.id).where(*_conditions(wanted, open_only=True))
    ordered = statement.order_by(_letters.c.inbox_id, _letters.c.id)
    return list((await connection.execute(ordered)).scalars())


async def show_dead_letter(connection: AsyncConnection, letter_id: int) -> dict[str, Any] | None:
    """One dead letter with its body as text."""
    row = (
        await connection.execute(select(_letters).where(_letters.c.id == letter_id))
    ).one_or_none()
    return None if row is None else dict(row._mapping)


# A body is read only where its key may be somewhere in it; thousands of large ones at once are not.
_TO_REPLAY = f"""
SELECT d.id, d.inbox_id, d.received_at, d.error_code, d.source_id, i.id IS NOT NULL AS is_kept,
       i.event_type, i.object_id, octet_length(i.body) AS bytes,
       {IS_REDACTED} AS is_redacted,
       CASE WHEN i.object_id IS NULL AND i.event_type IS NOT NULL THEN i.body END AS body,
       i.object_id IS NOT NULL AND EXISTS (
           SELECT FROM relay.inbox n
           JOIN relay.receipt t ON t.inbox_id = n.id AND t.received_at = n.received_at
           WHERE n.object_id = i.object_id AND n.source_id = i.source_id
             AND n.account IS NOT DISTINCT FROM i.account
             AND n.id > i.id AND t.topic IS NOT NULL AND t.kind = 0) AS overtaken
FROM relay.dead_letter d
LEFT JOIN relay.inbox i ON i.id = d.inbox_id AND i.received_at = d.received_at
WHERE d.id = ANY (:ids) AND d.replayed_at IS NULL AND d.discarded_at IS NULL
ORDER BY d.inbox_id, d.id
FOR UPDATE OF d
"""  # noqa: S608 - a constant of ours

_QUEUE_AGAIN = """
WITH given AS (
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:lanes AS smallint[]),
                         CAST(:key_hashes AS bigint[]), CAST(:bytes AS integer[]))
        WITH ORDINALITY AS g (id, lane, key_hash, bytes, place)
), closed AS (
    UPDATE relay.dead_letter d SET replayed_at = clock_timestamp() FROM given g WHERE d.id = g.id
    RETURNING d.id, d.source_id, d.inbox_id, d.received_at
)
INSERT INTO relay.queue (source_id, lane, number, inbox_id, received_at, key_hash, bytes, kind,
    replay_id)
SELECT c.source_id, g.lane, nextval('relay.arrival'), c.inbox_id, c.received_at, g.key_hash,
    g.bytes, 0, :replay_id
FROM given g JOIN closed c ON c.id = g.id ORDER BY g.place
"""


async def replay(connection: AsyncConnection, ids: Sequence[int], operator: Operator) -> Replay:
    """Queue dead letters again, each at the end of its object's line, and close them.

    Dead letters that are closed already are passed over, so the same replay twice adds nothing.
    """
    replay_id = new_replay_id()
    rows = await connection.execute(sql(_TO_REPLAY), {"ids": list(ids)})
    again: list[tuple[int, int, int, int]] = []
    overtaken: list[int] = []
    refused: dict[int, str] = {}
    for row in rows.all():
        try:
            lane, key_hash = _line_of(row)
        except UnusableEvent as error:
            refused[row.id] = error.message
            continue
        again.append((row.id, lane, key_hash, row.bytes))
        if row.overtaken:
            overtaken.append(row.id)
    queued = [letter for letter, *_ in again]
    if again:
        names = ("ids", "lanes", "key_hashes", "bytes")
        columns = dict(zip(names, map(list, zip(*again, strict=True)), strict=True))
        await connection.execute(sql(_QUEUE_AGAIN), columns | {"replay_id": replay_id})
    result = Replay(replay_id, tuple(queued), refused, tuple(overtaken))
    details = {"queued": queued, "refused": list(refused)}
    await log(connection, operator, "dead_letter.replay", replay_id, details)
    return result


def _line_of(row: Any) -> tuple[int, int]:
    """The lane and the hash of the key; raises UnusableEvent with the reason for a refusal."""
    if row.inbox_id is None:
        raise UnusableEvent("refused", "a refused request: it never was an event of yours")
    if not row.is_kept:
        raise UnusableEvent("gone", "its body is gone: the retention has passed")
    if row.is_redacted:
        raise UnusableEvent("redacted", "its body was redacted: discard it")
    if row.event_type is None:
        raise UnusableEvent("unusable", f"no usable event ({row.error_code}): discard it")
    try:
        return line_of(row.object_id, row.body)
    except UnusableEvent as error:
        raise UnusableEvent(error.code, f"no usable event ({error.code}): discard it") from error


async def discard(connection: AsyncConnection, ids: Sequence[int], operator: Operator) -> int:
    """Give open dead letters up: their events are ``skipped``; returns how many."""
    closed = await discard_dead_letters(connection, ids)
    details = {"ids": closed}
    await log(connection, operator, "dead_letter.discard", f"{len(closed)} dead letters", details)
    return len(closed)
