"""Events page by page, also deep in an inbox of millions, and each page in bounded time.

What is asked of the inbox alone (a source, a type, an object, a time) is looked for there, and only
the rows of the page are looked up in the view: a place in the view of all states is not found by
an index, and what lies before it would be read again for every page.

There is no index by type or source, which every event received would have to pay for. So they are
looked for among so many events at a time, the newest first, and a page ends where the time is up.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Select, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from relay.store import events
from relay.store.events import Filter, is_impossible, like
from relay.store.tables import inbox, receipt, source

SEARCH_SECONDS = 0.15
"""After this long no further step is begun."""
_STEP: Final = 20_000
# What waits and what is dead have indexes of their own.
_MANY: Final = (None, "skipped", "delivered")


class Page(msgspec.Struct, frozen=True):
    """The newest first; ``next`` is the ``before_id`` of what comes after, None at the end.

    There may be fewer rows than were asked for, even none, and more to come.
    """

    rows: list[dict[str, Any]]
    next: int | None


async def page(
    connection: AsyncConnection, wanted: Filter, *, limit: int, before_id: int | None = None
) -> Page:
    """A page of the events that fit. Raises ConfigError for a state that is none."""
    if is_impossible(wanted):
        return Page([], None)
    if _is_few(wanted):
        rows = await events.list_events(connection, wanted, limit=limit, before_id=before_id)
        return Page(rows, rows[-1]["id"] if len(rows) == limit else None)
    if wanted.object is not None and wanted.state != "skipped":
        found = await connection.execute(_of_object(wanted, before_id).limit(limit))
        ids = list(found.scalars())
        rows = await _in_view(connection, ids, wanted.state)
        return Page(rows, ids[-1] if len(ids) == limit else None)
    return await _search(connection, wanted, limit=limit, before_id=before_id)


def _is_few(wanted: Filter) -> bool:
    """Whether the view finds them by what there are few of."""
    by_view = (wanted.error, wanted.event_id, wanted.inbox_id)
    return wanted.state not in _MANY or any(each is not None for each in by_view)


async def _search(
    connection: AsyncConnection, wanted: Filter, *, limit: int, before_id: int | None
) -> Page:
    """Look through the inbox step by step, until there are enough, the end, or the time is up."""
    rows: list[dict[str, Any]] = []
    ends = time.monotonic() + SEARCH_SECONDS
    while True:
        missing = limit - len(rows)
        found = await connection.execute(_among_next(wanted, before_id, missing))
        ids = list(found.scalars())
        # What was replayed has several receipts.
        rows += await _in_view(connection, list(dict.fromkeys(ids)), wanted.state)
        if len(ids) == missing:
            before_id = ids[-1]
        else:
            before_id = (await connection.execute(_place_behind(wanted, before_id))).scalar()
        if before_id is None or len(rows) == limit or time.monotonic() > ends:
            return Page(rows, before_id)


async def _in_view(
    connection: AsyncConnection, ids: list[int], state: str | None
) -> list[dict[str, Any]]:
    """The events of these ids that are in a state, in this order."""
    found = await connection.execute(text(_LOOK_UP), {"ids": ids, "state": state})
    return [dict(row._mapping) for row in found]


async def of_object(
    connection: AsyncConnection, object_id: str, *, limit: int, before_id: int | None
) -> Page:
    """The events of an object in all sources.

    Each has ``topics``, those that Kafka has acknowledged a record of it in.
    """
    found = await page(connection, Filter(object=object_id), limit=limit, before_id=before_id)
    topics = await connection.execute(text(_TOPICS), {"ids": [row["id"] for row in found.rows]})
    of_event = {row.inbox_id: row.topics for row in topics}
    rows = [row | {"topics": of_event.get(row["id"], [])} for row in found.rows]
    return Page(rows, found.next)


# One look-up for each, whatever the planner thinks of many: of 500 at once it made joins over all
# receipts, which took three seconds where there are ten million of them, and this takes 0.03.
_LOOK_UP = """
SELECT e.* FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS w (id, place)
CROSS JOIN LATERAL (SELECT * FROM relay.events e WHERE e.id = w.id OFFSET 0) e
WHERE CAST(:state AS text) IS NULL OR e.state = :state ORDER BY w.place
"""

_TOPICS = """
SELECT w.id AS inbox_id, t.topics FROM unnest(CAST(:ids AS bigint[])) AS w (id)
CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT r.topic ORDER BY r.topic) AS topics FROM relay.receipt r
    WHERE r.inbox_id = w.id AND r.topic IS NOT NULL OFFSET 0
) t
WHERE t.topics IS NOT NULL
"""


def _of_object(wanted: Filter, before_id: int | None) -> Select[int]:
    # One object's events come by their own index, and not by looking through all others.
    c = inbox.c
    statement = select(c.id).where(*_by_place(wanted, c.id, c.received_at, before_id))
    statement = statement.where(*_by_kind(c, wanted), c.object_id == wanted.object)
    return statement.order_by((c.id + 0).desc())


def _among_next(wanted: Filter, before_id: int | None, limit: int) -> Select[int]:
    """Those that fit among the next so many."""
    c = inbox.c
    near = _places(wanted, before_id).limit(_step(wanted, before_id)).subquery()
    if not _is_by_receipt(wanted, before_id):
        fitting = select(near.c.id).where(*_by_kind(near.c, wanted))
        return fitting.order_by(near.c.id.desc()).limit(limit)
    one = select(c.source_id, c.event_type, c.object_id)
    one = one.where(c.id == near.c.id, c.received_at == near.c.received_at)
    known = one.offset(0).lateral()
    fitting = select(near.c.id).join_from(near, known, true()).where(*_by_kind(known.c, wanted))
    if wanted.object is not None:
        fitting = fitting.where(known.c.object_id == wanted.object)
    return fitting.order_by(near.c.id.desc()).limit(limit)


def _place_behind(wanted: Filter, before_id: int | None) -> Select[Any]:
    """The last of the next so many; none where there are not so many any more."""
    return _places(wanted, before_id).offset(_step(wanted, before_id) - 1).limit(1)


def _places(wanted: Filter, before_id: int | None) -> Select[Any]:
    """Where to look, the newest first."""
    if not _is_by_receipt(wanted, before_id):
        c = inbox.c
        every = select(c.id, c.source_id, c.event_type)
        return every.where(*_by_place(wanted, c.id, c.received_at, before_id)).order_by(c.id.desc())
    r = receipt.c
    settled = select(r.inbox_id.label("id"), r.received_at).where(
        *_by_place(wanted, r.inbox_id, r.received_at, before_id), r.kind == 0
    )
    # In the words of the index of those that were skipped.
    is_skipped = r.skipped.is_not(None) if wanted.state == "skipped" else r.skipped.is_(None)
    return settled.where(is_skipped).order_by(r.inbox_id.desc())


def _is_by_receipt(wanted: Filter, before_id: int | None) -> bool:
    """Whether they are found by their receipts.

    Those skipped are few. Those delivered are nearly all of the inbox, behind what still waits.
    """
    return wanted.state == "skipped" or (wanted.state == "delivered" and before_id is None)


def _step(wanted: Filter, before_id: int | None) -> int:
    # Each receipt costs a look at its event.
    return _STEP // 10 if _is_by_receipt(wanted, before_id) else _STEP


def _by_place(
    wanted: Filter,
    inbox_id: ColumnElement[int],
    received_at: ColumnElement[Any],
    before_id: int | None,
) -> list[ColumnElement[bool]]:
    """What the partitions and the indexes know of."""
    conditions = []
    if before_id is not None:
        conditions.append(inbox_id < before_id)
    if wanted.since is not None:
        conditions.append(received_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(received_at < wanted.until)
    return conditions


def _by_kind(
    columns: ReadOnlyColumnCollection[str, Any], wanted: Filter
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.source is not None:
        ids = select(source.c.id).where(source.c.name == wanted.source)
        conditions.append(columns["source_id"].in_(ids))
    if wanted.type is not None:
        conditions.append(columns["event_type"].like(like(wanted.type)))
    return conditions
