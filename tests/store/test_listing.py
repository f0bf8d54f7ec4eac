"""Pages of events: the same as the view has, however they are found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.store import events, listing
from relay.store.engine import Database
from relay.store.events import Filter
from tests.store.rows import deliver, new_event, store
from tests.support.many_events import fill

_NOW = datetime.now(UTC)
_FILTERS = {
    "all": Filter(),
    "source": Filter(source="shop"),
    "another source": Filter(source="nobody"),
    "type": Filter(type="customer.*"),
    "another type": Filter(type="invoice.*"),
    "object": Filter(object="cus_3"),
    "another object": Filter(object="cus_none"),
    "time": Filter(since=_NOW - timedelta(days=4), until=_NOW - timedelta(days=2)),
    "object and time": Filter(object="cus_3", since=_NOW - timedelta(days=4)),
    "type and object": Filter(type="customer.*", object="cus_4", source="shop"),
    "dead": Filter(state="dead"),
    "retrying": Filter(state="retrying"),
    "pending": Filter(state="pending"),
    "skipped": Filter(state="skipped"),
    "delivered": Filter(state="delivered"),
    "delivered of an object": Filter(state="delivered", object="cus_8"),
    "delivered of a type": Filter(state="delivered", type="customer.*"),
    "delivered in a time": Filter(state="delivered", until=_NOW - timedelta(days=2)),
    "skipped of a type": Filter(state="skipped", type="customer.*", source="shop"),
    "skipped of an object": Filter(state="skipped", object="cus_7"),
    "skipped in a time": Filter(state="skipped", since=_NOW - timedelta(days=2)),
    "error": Filter(error="too_large"),
    "event": Filter(event_id="evt_1234"),
    "inbox id": Filter(inbox_id=77),
    "impossible": Filter(type="a\0*"),
}


async def _all(connection: AsyncConnection, wanted: Filter, limit: int) -> list[int]:
    """Page by page."""
    ids: list[int] = []
    before = None
    while True:
        found = await listing.page(connection, wanted, limit=limit, before_id=before)
        assert len(found.rows) <= limit
        ids += [row["id"] for row in found.rows]
        if found.next is None:
            return ids
        assert before is None or found.next < before
        before = found.next


async def test_pages_are_what_the_view_has(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await fill(pg, source_id, 3000, waiting=100, objects=50)
    async with database.begin() as connection:
        for name, wanted in _FILTERS.items():
            rows = await events.list_events(connection, wanted, limit=10_000)
            ids = [row["id"] for row in rows]
            expected = name not in (
                "another source",
                "another type",
                "another object",
                "impossible",
            )
            assert bool(ids) == expected, name
            assert await _all(connection, wanted, 170) == ids, name


async def test_a_page_ends_when_the_time_is_up(
    database: Database, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(pg, source_id, 1000, waiting=100, objects=50)
    await pg.execute(
        "INSERT INTO relay.receipt SELECT inbox_id, received_at, nextval('relay.arrival'), record,"
        " kind, attempts, partition, \"offset\", produced_at, topic, key, op, skipped, 'rpl_1'"
        " FROM relay.receipt WHERE inbox_id % 3 = 0"
    )
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(listing, "_STEP", 100)
    async with database.begin() as connection:
        for name, wanted in _FILTERS.items():
            rows = await events.list_events(connection, wanted, limit=10_000)
            assert await _all(connection, wanted, 17) == [row["id"] for row in rows], name
        none = await listing.page(connection, Filter(type="nothing"), limit=17)
        assert (none.rows, none.next) == ([], 901)


async def test_a_row_is_the_whole_row(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id))
    async with database.begin() as connection:
        found = await listing.page(connection, Filter(), limit=5)
        assert found == listing.Page(await events.list_events(connection, Filter()), None)


async def test_an_object_has_the_topics_of_its_events(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    sent, waiting = await store(pg, new_event(source_id), new_event(source_id))
    await deliver(pg, sent, records=2)
    async with database.begin() as connection:
        found = await listing.of_object(connection, "cus_1", limit=5, before_id=None)
        assert [(row["id"], row["topics"]) for row in found.rows] == [
            (waiting, []),
            (sent, ["customer"]),
        ]
        for impossible in ("a\0", "\ud800"):
            none = await listing.of_object(connection, impossible, limit=5, before_id=None)
            assert none == listing.Page([], None)


async def test_an_unknown_state_is_refused(database: Database) -> None:
    wanted = msgspec.structs.replace(Filter(), state="lost")  # type: ignore[arg-type]
    async with database.begin() as connection:
        with pytest.raises(Exception, match="no state 'lost'"):
            await listing.page(connection, wanted, limit=5)
