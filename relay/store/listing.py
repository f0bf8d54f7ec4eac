"""Events page by page, also deep in an inbox of millions.

What is asked of the inbox alone (a source, a type, an object, a time) is looked for there, and only
the rows of the page are looked up in the view: a place in the view of all states is not found by
an index, and what lies before it would be read again for every page.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Select,
    any_,
    cast,
    false,
    literal_column,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import events
from relay.store.events import Filter, events_view, is_impossible, like
from relay.store.tables import inbox, source


class Page(msgspec.Struct, frozen=True):
    """The newest first; ``next`` is the ``before_id`` of what comes after, None at the end.

    There may be fewer rows than were asked for and more to come.
    """

    rows: list[dict[str, Any]]
    next: int | None


async def page(
    connection: AsyncConnection, wanted: Filter, *, limit: int, before_id: int | None = None
) -> Page:
    """A page of the events that fit. Raises ConfigError for a state that is none."""
    # Most are delivered: of those that follow on a page, nearly all will fit.
    goes_on = wanted.state == "delivered" and before_id is not None
    by_view = (None if goes_on else wanted.state, wanted.error, wanted.event_id, wanted.inbox_id)
    if any(each is not None for each in by_view):
        rows = await events.list_events(connection, wanted, limit=limit, before_id=before_id)
        return Page(rows, rows[-1]["id"] if len(rows) == limit else None)
    found = await connection.execute(_of_inbox(wanted, before_id).limit(limit))
    ids = list(found.scalars())
    if not ids:
        return Page([], None)
    statement = select(events_view).where(events_view.c.id == any_(cast(ids, ARRAY(BigInteger))))
    if goes_on:
        statement = statement.where(events_view.c.state == literal_column("'delivered'"))
    rows = [
        dict(row._mapping)
        for row in await connection.execute(statement.order_by(events_view.c.id.desc()))
    ]
    return Page(rows, ids[-1] if len(ids) == limit else None)


async def of_object(
    connection: AsyncConnection, object_id: str, *, limit: int, before_id: int | None
) -> Page:
    """The events of an object in all sources.

    Each has ``topics``, those that Kafka has acknowledged a record of it in.
    """
    found = await page(connection, Filter(object=object_id), limit=limit, before_id=before_id)
    topics = await connection.execute(
        text(
            """
            SELECT inbox_id, array_agg(DISTINCT topic ORDER BY topic) AS topics
            FROM relay.receipt WHERE inbox_id = ANY (:ids) AND topic IS NOT NULL GROUP BY inbox_id
            """
        ),
        {"ids": [row["id"] for row in found.rows]},
    )
    of_event = {row.inbox_id: row.topics for row in topics}
    rows = [row | {"topics": of_event.get(row["id"], [])} for row in found.rows]
    return Page(rows, found.next)


def _of_inbox(wanted: Filter, before_id: int | None) -> Select[int]:
    c = inbox.c
    if is_impossible(wanted):
        return select(c.id).where(false())
    statement = select(c.id)
    if before_id is not None:
        statement = statement.where(c.id < before_id)
    if wanted.source is not None:
        ids = select(source.c.id).where(source.c.name == wanted.source)
        statement = statement.where(c.source_id.in_(ids))
    if wanted.type is not None:
        statement = statement.where(c.event_type.like(like(wanted.type)))
    if wanted.since is not None:
        statement = statement.where(c.received_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(c.received_at < wanted.until)
    if wanted.object is None:
        return statement.order_by(c.id.desc())
    # One object's events come by their own index, and not by looking through all others.
    return statement.where(c.object_id == wanted.object).order_by((c.id + 0).desc())
