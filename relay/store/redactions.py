"""Redaction: the bodies of an object's events are erased, and what proves them stays.

Done in transactions of bounded size, each whole in itself: it settles what is unfinished of its
events and erases their bodies. A redaction that was interrupted is simply asked for again.

The events of an object share one lane in each source, so whoever has locked that lane knows that no
forwarder is at work on any of them. What a replay puts back into the line at that very moment is
read by a forwarder after the erasure, and skipped: there is nothing left to make a record of.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text as sql
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.core.routing import key_of, lane_of
from relay.store import sources
from relay.store.events import Operator, discard_dead_letters, discard_waiting, log
from relay.store.frozen import OPERATOR_HOLDS_LANES
from relay.store.tables import QUEUE_DEAD_LETTER_COPY
from relay.store.text import is_storable, storable

BATCH = 500
REASON = "redacted"
"""What the receipts of events say that were given up for it."""


class Extent(msgspec.Struct, frozen=True):
    """What a redaction of an object is about, as it stood when it was counted.

    ``events`` have a body still and ``redacted`` have none any more; ``waiting`` and ``dead`` are
    those of ``events`` that would be skipped. ``samples`` of refused requests name the object.
    ``topics`` hold records of any of them. Events that arrive later have ids above ``last``.
    """

    object_id: str
    source_ids: tuple[int, ...]
    last: int
    events: int
    redacted: int
    waiting: int
    dead: int
    samples: int
    topics: tuple[str, ...]


class Step(msgspec.Struct, frozen=True):
    """What one transaction did; ``done`` is the inbox id that it came to, None at the end."""

    done: int | None
    redacted: int = 0
    skipped: int = 0
    discarded: int = 0


async def is_possible(connection: AsyncConnection) -> bool:
    """Whether the schema knows redactions; the one before this build's does not."""
    found = await connection.execute(sql("SELECT to_regclass('relay.redaction') IS NOT NULL"))
    return bool(found.scalar_one())


_EXTENT = """
WITH found AS MATERIALIZED (
    SELECT i.id, i.received_at, r.inbox_id IS NOT NULL AS redacted
    FROM relay.inbox i
    LEFT JOIN relay.redaction r ON r.inbox_id = i.id AND r.received_at = i.received_at
    WHERE i.object_id = :object AND i.source_id = ANY (:sources)
)
SELECT coalesce(max(id), 0) AS last,
       count(*) FILTER (WHERE NOT redacted) AS events,
       count(*) FILTER (WHERE redacted) AS redacted,
       (SELECT count(*) FROM found f JOIN relay.queue q ON q.inbox_id = f.id AND q.kind = 0
        WHERE NOT f.redacted) AS waiting,
       (SELECT count(*) FROM found f JOIN relay.dead_letter d ON d.inbox_id = f.id
        WHERE NOT f.redacted AND d.replayed_at IS NULL AND d.discarded_at IS NULL) AS dead,
       (SELECT count(*) FROM relay.dead_letter d
        WHERE d.refused_body IS NOT NULL AND d.source_id = ANY (:sources)
          AND position(convert_to('"' || :object || '"', 'UTF8') IN d.refused_body) > 0) AS samples,
       ARRAY(SELECT DISTINCT t.topic FROM found f
             JOIN relay.receipt t ON t.inbox_id = f.id AND t.received_at = f.received_at
             WHERE t.topic IS NOT NULL ORDER BY 1) AS topics
FROM found
"""


async def extent(connection: AsyncConnection, object_id: str, source: str | None) -> Extent:
    """Count what there is of an object, in all sources (deleted ones, too) or in one.

    Raises ConfigError on a schema without redactions, and when no source has, or ever had, that
    name or id.
    """
    if not await is_possible(connection):
        raise ConfigError("the schema of the database knows no redactions: run `relay migrate`")
    source_ids = await _source_ids(connection, source)
    if not is_storable(object_id) or not object_id:
        return Extent(object_id, source_ids, 0, 0, 0, 0, 0, 0, ())
    given = {"object": object_id, "sources": list(source_ids)}
    counted = dict((await connection.execute(sql(_EXTENT), given)).one()._mapping)
    counted["topics"] = tuple(counted["topics"])
    return Extent(object_id=object_id, source_ids=source_ids, **counted)


async def _source_ids(connection: AsyncConnection, source: str | None) -> tuple[int, ...]:
    if source is not None and not is_storable(source):
        raise ConfigError("no source has such a name")
    rows = await connection.execute(
        sql(
            "SELECT id FROM relay.source WHERE CAST(:name AS text) IS NULL"
            " OR name = :name OR public_id = :name ORDER BY id"
        ),
        {"name": source},
    )
    found = tuple(rows.scalars())
    if not found and source is not None:
        found = ((await sources.find(connection, source)).config.source_id,)
    return found


_NEXT = """
SELECT i.id, i.received_at FROM relay.inbox i
WHERE i.object_id = :object AND i.source_id = ANY (:sources) AND i.id > :after AND i.id <= :last
  AND NOT EXISTS (SELECT FROM relay.redaction r
                  WHERE r.inbox_id = i.id AND r.received_at = i.received_at)
ORDER BY i.id LIMIT :limit
"""


async def first_events(connection: AsyncConnection, what: Extent, limit: int) -> list[int]:
    """The inbox ids of the first events that would be redacted."""
    return [row.id for row in await _next(connection, what, 0, limit)]


async def _next(connection: AsyncConnection, what: Extent, after: int, limit: int) -> Sequence[Any]:
    given = {"object": what.object_id, "sources": list(what.source_ids), "last": what.last}
    rows = await connection.execute(sql(_NEXT), given | {"after": after, "limit": limit})
    return rows.all()


async def redact_some(
    connection: AsyncConnection,
    what: Extent,
    operator: Operator,
    *,
    after: int = 0,
    limit: int = BATCH,
) -> Step:
    """Redact the next ``limit`` events behind the inbox id ``after``, in the caller's transaction.

    Waits for the batch that one of them may be in. Raises ConfigError without a reason.
    """
    if not (operator.reason or "").strip():
        raise ConfigError("a redaction needs a reason", setting="--reason")
    await _lock_lanes(connection, what)
    rows = await _next(connection, what, after, limit)
    if not rows:
        return Step(None)
    ids = [row.id for row in rows]
    # The dead letters first: what is replayed at this moment is found in the line then.
    discarded = len(await discard_dead_letters(connection, await _open(connection, ids), REASON))
    skipped = len(await discard_waiting(connection, ids, REASON))
    await connection.execute(
        sql("DELETE FROM relay.queue WHERE inbox_id = ANY (:ids) AND kind = :kind"),
        {"ids": ids, "kind": QUEUE_DEAD_LETTER_COPY},
    )
    redacted = await _erase(connection, rows, operator)
    step = Step(ids[-1], redacted, skipped, discarded)
    details = {"redacted": redacted, "skipped": skipped, "discarded": discarded}
    await log(connection, operator, "object.redact", what.object_id, details | {"last": what.last})
    return step


async def _lock_lanes(connection: AsyncConnection, what: Extent) -> None:
    lane, _ = lane_of(key_of(what.object_id))
    await connection.execute(sql(OPERATOR_HOLDS_LANES))
    await connection.execute(
        sql(
            "SELECT FROM relay.lane WHERE lane = :lane AND source_id = ANY (:sources)"
            " ORDER BY source_id FOR NO KEY UPDATE"
        ),
        {"lane": lane, "sources": list(what.source_ids)},
    )


async def _open(connection: AsyncConnection, inbox_ids: Sequence[int]) -> list[int]:
    rows = await connection.execute(
        sql(
            "SELECT id FROM relay.dead_letter WHERE inbox_id = ANY (:ids)"
            " AND replayed_at IS NULL AND discarded_at IS NULL ORDER BY id"
        ),
        {"ids": list(inbox_ids)},
    )
    return list(rows.scalars())


async def _erase(connection: AsyncConnection, rows: Sequence[Any], operator: Operator) -> int:
    erased = await connection.execute(
        sql("SELECT relay.redact(:ids, :moments, :reason, :operator)"),
        {
            "ids": [row.id for row in rows],
            "moments": [row.received_at for row in rows],
            "reason": storable(operator.reason or ""),
            "operator": storable(operator.who),
        },
    )
    return int(erased.scalar_one())


async def redact_samples(connection: AsyncConnection, what: Extent, operator: Operator) -> int:
    """Erase the samples of refused requests that name the object; returns how many."""
    erased = await connection.execute(
        sql("SELECT relay.redact_samples(:object, :sources)"),
        {"object": what.object_id, "sources": list(what.source_ids)},
    )
    count = int(erased.scalar_one())
    await log(connection, operator, "object.redact", what.object_id, {"samples": count})
    return count


class Redaction(msgspec.Struct, frozen=True):
    """Whose body was erased, and by whom, when and why."""

    inbox_id: int
    redacted_at: datetime
    operator: str
    reason: str

    def __str__(self) -> str:
        return (
            f"redacted at {self.redacted_at:%Y-%m-%d %H:%M:%S %Z} by {self.operator}: {self.reason}"
        )


async def of_events(connection: AsyncConnection, inbox_ids: Sequence[int]) -> dict[int, Redaction]:
    """The redactions of these events, by inbox id."""
    if not await is_possible(connection):
        return {}
    rows = await connection.execute(
        sql(
            "SELECT inbox_id, redacted_at, operator, reason FROM relay.redaction"
            " WHERE inbox_id = ANY (:ids)"
        ),
        {"ids": list(inbox_ids)},
    )
    return {row.inbox_id: Redaction(*row) for row in rows}
