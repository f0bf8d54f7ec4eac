"""Sending settled events again: which, in which places, and a run that was interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.store import replays, sources
from relay.store.engine import Database
from relay.store.events import Filter
from relay.store.replays import Choice, Run
from tests.store.rows import (
    OPERATOR,
    bury,
    deliver,
    fail,
    leave_out,
    new_event,
    put,
    row_of,
    states,
    store,
)


def chosen(topic: str | None = None, **wanted: Any) -> Choice:
    return Choice(Filter(**({"state": "delivered"} | wanted)), topic)


async def delivered(
    pg: asyncpg.Connection, source_id: int, *event_ids: str, **of: Any
) -> list[int]:
    """Inbox ids of new events that Kafka has acknowledged."""
    ids = await store(pg, *(new_event(source_id, each, **of) for each in event_ids))
    for each in ids:
        await deliver(pg, each)
    return ids


async def begin(database: Database, choice: Choice) -> tuple[Run, int]:
    """A run that has queued nothing yet, and how many it is about."""
    async with database.begin() as connection:
        matched = await replays.count(connection, choice)
        return await replays.begin(connection, choice, matched, OPERATOR), matched


async def go_on(database: Database, run: Run, *, limit: int = 1000) -> Run:
    async with database.begin() as connection:
        return await replays.queue_some(connection, run, OPERATOR, limit=limit)


async def run_through(database: Database, choice: Choice, *, limit: int = 1000) -> Run:
    run, _ = await begin(database, choice)
    while not run.finished:
        run = await go_on(database, run, limit=limit)
    return run


async def line(pg: asyncpg.Connection) -> list[int]:
    """Who waits, in the order of the line."""
    return [
        r["inbox_id"] for r in await pg.fetch("SELECT inbox_id FROM relay.queue ORDER BY number")
    ]


# Which


async def test_what_is_delivered_goes_again_in_the_order_of_arrival(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await delivered(pg, source_id, "a", "b", "c")
    (waiting,) = await store(pg, new_event(source_id, "d", object_id="cus_2"))
    run = await run_through(database, chosen())
    assert run.queued == 3
    assert await line(pg) == [waiting, *ids]
    assert await states(pg, *ids, waiting) == ["pending"] * 4
    assert {(await row_of(pg, each)).replay_id for each in ids} == {run.replay_id}
    for each in ids:
        await deliver(pg, each)
    assert await states(pg, *ids) == ["delivered"] * 3
    again = "SELECT count(*) FROM relay.receipt WHERE replay_id = $1"
    assert await pg.fetchval(again, run.replay_id) == 3


async def test_the_lane_and_the_key_are_those_of_the_first_time(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    body = (
        b'{"id":"evt_b","type":"balance.available","object":"event",'
        b'"data":{"object":{"object":"balance"}}}'
    )
    with_id, without = await store(
        pg, new_event(source_id, "a"), new_event(source_id, "evt_b", object_id=None, body=body)
    )
    first = await row_of(pg, with_id)
    for each in (with_id, without):
        await deliver(pg, each)
    await run_through(database, chosen())
    again = await row_of(pg, with_id)
    assert (again.lane, again.key_hash, again.bytes) == (first.lane, first.key_hash, first.bytes)
    assert (await row_of(pg, without)).inbox_id == without


async def test_only_what_fits_every_filter(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (a,) = await delivered(pg, source_id, "a", object_id="cus_1")
    (b,) = await delivered(pg, source_id, "b", object_id="cus_1")
    (c,) = await delivered(pg, source_id, "c", object_id="in_1", event_type="invoice.paid")
    (skipped,) = await store(pg, new_event(source_id, "d"))
    await leave_out(pg, skipped)
    moment = await pg.fetchval("SELECT received_at FROM relay.inbox WHERE id = $1", b)
    cases: list[tuple[Choice, list[int]]] = [
        (chosen(), [a, b, c]),
        (chosen(source="shop"), [a, b, c]),
        (chosen(source="other"), []),
        (chosen(object="in_1"), [c]),
        (chosen(type="invoice.*"), [c]),
        (chosen(since=moment), [b, c]),
        (chosen(until=moment), [a]),
        (chosen("customer"), [a, b, c]),
        (chosen("customer", object="cus_1"), [a, b]),
        (chosen("invoice"), []),
        (chosen(state="skipped"), [skipped]),
    ]
    for choice, wanted in cases:
        _, matched = await begin(database, choice)
        assert matched == len(wanted), choice
        await run_through(database, choice, limit=2)
        assert await line(pg) == wanted, choice
        await pg.execute("DELETE FROM relay.queue")


async def test_what_is_not_settled_cannot_be_chosen(database: Database) -> None:
    for state in ("pending", "retrying", "dead", None):
        with pytest.raises(ConfigError, match="delivered or skipped"):
            await begin(database, chosen(state=state))


async def test_the_dead_the_waiting_and_those_of_a_deleted_source_stay(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    dead, retried, pending = await store(pg, *(new_event(source_id, each) for each in "abc"))
    await bury(pg, dead)
    await fail(pg, retried)
    run = await run_through(database, chosen())
    assert run.queued == 0
    assert await line(pg) == [retried, pending]
    await pg.execute("DELETE FROM relay.queue")
    await delivered(pg, source_id, "d")
    async with database.begin() as connection:
        found = await sources.find(connection, "shop")
        await sources.delete(connection, found.config.source_id)
    assert (await run_through(database, chosen())).queued == 0


# The places in the line


async def test_whatever_arrives_during_a_run_comes_after_it(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    a, b, c = await delivered(pg, source_id, "a", "b", "c")
    run, _ = await begin(database, chosen())
    run = await go_on(database, run, limit=1)
    (late,) = await store(pg, new_event(source_id, "late"))
    while not run.finished:
        run = await go_on(database, run, limit=1)
    assert await line(pg) == [a, b, c, late]


async def test_what_waits_goes_behind_the_older_events_of_its_object(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    a, b = await delivered(pg, source_id, "a", "b")
    await delivered(pg, source_id, "x", object_id="cus_2")
    newer, other, newest = await store(
        pg,
        new_event(source_id, "newer"),
        new_event(source_id, "other", object_id="cus_3"),
        new_event(source_id, "newest"),
    )
    await fail(pg, newer)
    run, _ = await begin(database, chosen(object="cus_1"))
    (late,) = await store(pg, new_event(source_id, "late"))
    while not run.finished:
        run = await go_on(database, run)
    assert await line(pg) == [other, a, b, newer, newest, late]
    row = await row_of(pg, newer)
    assert (row.attempts, row.replay_id) == (1, None)


async def test_a_run_that_is_cancelled_leaves_its_objects_in_order(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    a, b = await delivered(pg, source_id, "a", "b")
    (newer,) = await store(pg, new_event(source_id, "newer"))
    run, _ = await begin(database, chosen())
    run = await go_on(database, run, limit=1)
    async with database.begin() as connection:
        assert await replays.cancel(connection, run.replay_id, OPERATOR)
    assert await line(pg) == [a, newer], "what waited is sent after what was queued before it"
    run = await go_on(database, run)
    assert (run.finished, run.cancelled, run.queued) == (True, True, 1)
    assert b not in await line(pg)
    async with database.begin() as connection:
        assert not await replays.cancel(connection, run.replay_id, OPERATOR)
        assert not await replays.cancel(connection, "rpl_x", OPERATOR)


async def test_the_beginning_waits_for_whoever_is_storing(
    database: Database, pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """An event that is being stored has drawn its number; it must be seen, or come later."""
    await delivered(pg, source_id, "a")
    transaction = pg.transaction()
    await transaction.start()
    await pg.execute("LOCK TABLE relay.queue IN ROW EXCLUSIVE MODE")
    beginning = asyncio.create_task(begin(database, chosen()))
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
    while not await other.fetchval(waits):
        assert not beginning.done()
    await transaction.rollback()
    run, _ = await beginning
    assert run.first > await pg.fetchval("SELECT max(id) FROM relay.inbox")


# Interrupted, and at once


async def test_an_interrupted_run_goes_on_where_it_was(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await delivered(pg, source_id, *"abcde")
    run, _ = await begin(database, chosen())
    async with database.begin() as connection:
        before = await replays.find_run(connection, run.replay_id)
    assert before == run
    run = await go_on(database, run, limit=2)
    # Two of them are through already when somebody thinks of the rest.
    for each in ids[:2]:
        await deliver(pg, each)
    async with database.begin() as connection:
        found = await replays.find_run(connection, run.replay_id)
        assert await replays.find_run(connection, "rpl_other") is None
    assert found == run
    while not found.finished:
        found = await go_on(database, found, limit=2)
    assert found.queued == 5
    assert await line(pg) == ids[2:]


async def test_two_runs_at_once_queue_an_event_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await delivered(pg, source_id, *"abcd")
    one, _ = await begin(database, chosen())
    two, _ = await begin(database, chosen())
    one = await go_on(database, one, limit=2)
    two = await go_on(database, two)
    one = await go_on(database, one)
    assert (one.queued, two.queued) == (2, 2)
    assert sorted(await line(pg)) == ids


async def test_a_run_goes_on_where_the_log_says_whoever_brought_it_there(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """What one has queued may have been delivered before the other comes to it."""
    ids = await delivered(pg, source_id, *"abcd")
    begun, _ = await begin(database, chosen())
    halfway = await go_on(database, begun, limit=2)
    for each in ids[:2]:
        await deliver(pg, each)
    stale = await go_on(database, begun, limit=1)
    assert stale.queued == halfway.queued + 1
    done = await go_on(database, await go_on(database, begun))
    assert (done.queued, done.matched, done.finished) == (4, 4, True)
    assert await go_on(database, begun) == done
    assert await line(pg) == ids[2:]


# A few


async def test_a_few_by_name_and_whether_they_were_overtaken(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    a, b = await delivered(pg, source_id, "a", "b")
    (c,) = await delivered(pg, source_id, "c", object_id="cus_2")
    moments = dict(await pg.fetch("SELECT id, received_at FROM relay.inbox"))
    async with database.begin() as connection:
        done = await replays.replay(connection, [(c, moments[c]), (a, moments[a])], OPERATOR)
    assert (done.queued, done.overtaken) == ((a, c), (a,))
    assert await line(pg) == [a, c]
    async with database.begin() as connection:
        done = await replays.replay(connection, [(a, moments[a]), (b, moments[b])], OPERATOR)
    assert (done.queued, done.overtaken) == ((b,), ())
    assert await put(pg, new_event(source_id, "a")) == [False]
