"""Looking for events, and an operator's hand on one that waits."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.core.routing import LANES
from relay.core.source import SourceConfig
from relay.store import events, frozen, queue, receipts, sources
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from relay.store.receipts import Receipt, Settled
from tests.store.rows import (
    OPERATOR,
    bury,
    deliver,
    fail,
    is_waiting,
    leave_out,
    new_event,
    row_of,
    states,
    store,
)
from tests.support.processes import eventually


async def found(database: Database, **wanted: Any) -> list[str]:
    """The event ids that fit, the newest first."""
    async with database.begin() as connection:
        rows = await events.list_events(connection, Filter(**wanted))
        ids = await events.find_ids(connection, Filter(**wanted))
    assert sorted(row["id"] for row in rows) == ids
    return [row["event_id"] for row in rows]


async def add_source(database: Database, name: str) -> int:
    config = SourceConfig(source_id=0, public_id="", name=name, insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id


# Looking


async def test_events_are_listed_from_the_newest_on(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    stored = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(7)))
    seen: list[int] = []
    before = None
    async with database.begin() as connection:
        while page := await events.list_events(connection, Filter(), limit=3, before_id=before):
            seen += [row["id"] for row in page]
            before = seen[-1]
    assert seen == sorted(stored, reverse=True)


async def test_filters_fit_together(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    other = await add_source(database, "other")
    await store(
        pg,
        new_event(source_id, "a", event_type="invoice.paid", object_id="in_1"),
        new_event(source_id, "b", event_type="invoice.updated", object_id="in_1"),
        new_event(source_id, "c", event_type="customer.updated", object_id="cus_1"),
        new_event(other, "a", event_type="invoice.paid", object_id="in_1"),
    )
    assert await found(database) == ["a", "c", "b", "a"]
    assert await found(database, object="in_1") == ["a", "b", "a"]
    assert await found(database, object="in_1", source="shop") == ["b", "a"]
    assert await found(database, event_id="a", source="other") == ["a"]
    assert await found(database, type="invoice.paid") == ["a", "a"]
    assert await found(database, type="invoice.*", source="shop") == ["b", "a"]
    assert await found(database, source="nobody") == []
    assert await found(database, object="in_2") == []


WILDCARDS = {
    "a_b.x": ["a_b.x"],
    "a_b.*": ["a_b.x"],
    "a*": ["a\\b.x", "a%b.x", "aXb.x", "a_b.x"],
    "a%b.x": ["a%b.x"],
    "a%*": ["a%b.x"],
    "a\\b.x": ["a\\b.x"],
    "a\\*": ["a\\b.x"],
    "*.x": ["a\\b.x", "a%b.x", "aXb.x", "a_b.x"],
    "*_*": ["a_b.x"],
    "*": ["é.y", "a\\b.x", "a%b.x", "aXb.x", "a_b.x"],
    "A_B.X": [],
    "": [],
    "é.*": ["é.y"],
    "\ud800*": [],
    "a\0*": [],
}


async def test_wildcards_are_stars_and_nothing_else(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    types = ["a_b.x", "aXb.x", "a%b.x", "a\\b.x", "é.y", None]
    await store(pg, *(new_event(source_id, str(each), event_type=each) for each in types))
    assert {pattern: await found(database, type=pattern) for pattern in WILDCARDS} == WILDCARDS


async def test_what_postgresql_cannot_hold_is_not_found(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id))
    for name in ("source", "type", "object", "error", "event_id"):
        for text in ("\0", "\ud800", "a\0b"):
            assert await found(database, **{name: text}) == [], (name, text)


async def test_a_time_is_that_of_the_arrival(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id, "a"))
    await store(pg, new_event(source_id, "b"))
    first, second = [
        row["received_at"]
        for row in await pg.fetch("SELECT received_at FROM relay.inbox ORDER BY id")
    ]
    assert await found(database, since=first) == ["b", "a"]
    assert await found(database, since=second) == ["b"]
    assert await found(database, until=second) == ["a"]
    assert await found(database, since=first, until=first) == []
    assert await found(database, since=second + timedelta(microseconds=1)) == []
    async with database.begin() as connection:
        now = await events.now(connection)
    assert isinstance(now, datetime)
    assert await found(database, since=now) == []


async def test_states_and_errors_are_filters(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    names = ("waiting", "retrying", "dead", "skipped", "delivered")
    ids = dict(zip(names, await store(pg, *(new_event(source_id, n) for n in names)), strict=True))
    await fail(pg, ids["retrying"])
    await bury(pg, ids["dead"])
    await leave_out(pg, ids["skipped"])
    await deliver(pg, ids["delivered"])
    for state, name in zip(events.STATES, names, strict=True):
        assert await found(database, state=state) == [name]
        assert await found(database, state=state, inbox_id=ids[name]) == [name]
        assert await found(database, state=state, inbox_id=ids["dead"] + 999) == []
    assert await found(database, error="transform_error") == ["retrying"]
    assert await found(database, error="too_large") == ["dead"]
    assert await found(database, error="too_large", state="retrying") == []
    with pytest.raises(ConfigError, match="states are pending"):
        await found(database, state="done'; --")


async def test_one_event_is_shown_with_all_that_is_known(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    other = await add_source(database, "other")
    (stored,) = await store(pg, new_event(source_id, "evt_1", body=b"\xff exact"))
    await store(pg, new_event(other, "evt_1"))
    await fail(pg, stored)
    await deliver(pg, stored, records=2)
    async with database.begin() as connection:
        assert await events.show_events(connection, Filter(event_id="evt_2")) == []
        both = await events.show_events(connection, Filter(event_id="evt_1"))
        (shown,) = await events.show_events(connection, Filter(event_id="evt_1", source="shop"))
    assert {event["source"] for event in both} == {"shop", "other"}
    assert shown["body"] == b"\xff exact"
    assert shown["signature_header"] == "t=1,v1=00"
    assert [(each["record"], each["topic"]) for each in shown["deliveries"]] == [
        (0, "customer"),
        (1, "customer"),
    ]
    assert [each["error_code"] for each in shown["failures"]] == ["transform_error"]


# Retrying


async def test_a_retry_is_now(database: Database, pg: asyncpg.Connection, source_id: int) -> None:
    failed, waiting, done = await store(pg, *(new_event(source_id) for _ in range(3)))
    await fail(pg, failed)
    await deliver(pg, done)
    async with database.begin() as connection:
        assert await events.retry(connection, [failed, waiting, done, 10**9], OPERATOR) == 2
        assert await events.retry(connection, [], OPERATOR) == 0
    row = await pg.fetchrow("SELECT * FROM relay.queue WHERE inbox_id = $1", failed)
    assert row is not None
    assert (row["visible_at"], row["attempts"]) == (None, 1)
    assert await states(pg, failed, waiting, done) == ["retrying", "pending", "delivered"]
    async with pg.transaction():
        lane = (source_id, row["lane"])
        assert lane in await queue.lock_lanes(pg, (0, 0), LANES)
        assert (await queue.read_lanes(pg, [lane], 9))[0].inbox_id == failed


async def test_a_retry_frees_the_source_that_halted_there(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    first, second = await store(pg, new_event(source_id), new_event(source_id))
    row = await row_of(pg, first)
    await queue.halt(pg, row, "no_route", "no \0 such \ud800 topic")
    assert await _halted(database) == "no_route"
    async with database.begin() as connection:
        await events.retry(connection, [second], OPERATOR)
    assert await _halted(database) == "no_route"
    async with database.begin() as connection:
        await events.retry(connection, [first], OPERATOR)
    assert await _halted(database) is None


async def _halted(database: Database) -> str | None:
    async with database.begin() as connection:
        (source, *_) = await sources.list_all(connection)
    assert (source.halted_at is None) == (source.halted_code is None)
    return source.halted_code


async def test_a_retry_never_waits_for_a_batch(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """A batch settles its rows in another order: they would deadlock."""
    here, there = await store(
        pg, new_event(source_id, object_id="cus_1"), new_event(source_id, object_id="cus_2")
    )
    await fail(pg, there)
    settled = Settled(await row_of(pg, here), (), "unselected")
    async with pg.transaction():
        await receipts.settle(pg, [settled], None)
        async with database.begin() as connection:
            assert await events.retry(connection, [here, there], OPERATOR) == 1
    assert await states(pg, here, there) == ["skipped", "retrying"]


# Skipping


@pytest.mark.parametrize("outcome", ["delivered", "rolled back"])
async def test_a_skip_waits_for_the_batch_in_flight(
    database: Database,
    pg: asyncpg.Connection,
    other: asyncpg.Connection,
    source_id: int,
    outcome: str,
) -> None:
    """Either delivered or skipped, and settled once."""
    (stored,) = await store(pg, new_event(source_id))
    row = await row_of(pg, stored)
    batch = pg.transaction()
    await batch.start()
    assert await queue.lock_lanes(pg, (0, 0), LANES) == [(source_id, row.lane)]
    skipping = asyncio.create_task(_skip(database, stored))
    await eventually(lambda: is_waiting(other))
    assert not skipping.done()
    if outcome == "delivered":
        await receipts.settle(pg, [Settled(row, (Receipt("customer", 0, 1, "{}", "u"),))], None)
        await batch.commit()
        assert await skipping == 0
        assert await states(other, stored) == ["delivered"]
    else:
        await batch.rollback()
        assert await skipping == 1
        assert await states(other, stored) == ["skipped"]
    assert await other.fetchval("SELECT count(*) FROM relay.receipt") == 1
    assert await other.fetchval("SELECT count(*) FROM relay.queue") == 0


async def _skip(database: Database, *inbox_ids: int) -> int:
    async with database.begin() as connection:
        return await events.skip(connection, inbox_ids, OPERATOR)


async def test_while_a_skip_works_nobody_claims_its_lanes(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    first, second = await store(
        pg, new_event(source_id, object_id="cus_1"), new_event(source_id, object_id="cus_2")
    )
    lanes = [(source_id, (await row_of(pg, each)).lane) for each in (first, second)]
    assert lanes[0] != lanes[1]
    async with database.begin() as connection:
        await events.skip(connection, [first], OPERATOR)
        async with pg.transaction():
            assert await queue.lock_lanes(pg, (0, 0), LANES) == [lanes[1]]


async def test_two_skips_at_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """Of the same events in another order: no deadlock, and each is skipped once."""
    stored = await store(
        pg, *(new_event(source_id, object_id=f"cus_{number}") for number in range(60))
    )
    counts = await asyncio.gather(
        _skip(database, *stored), _skip(database, *reversed(stored)), _skip(database, *stored[::3])
    )
    assert sum(counts) == 60
    assert await pg.fetchval("SELECT count(*) FROM relay.receipt") == 60


async def test_a_skip_that_takes_long_is_not_taken_for_a_frozen_forwarder(
    database: Database, pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """It may wait for batch after batch; a forwarder that holds its lanes as long is ended."""
    mine, theirs = await store(
        pg, new_event(source_id, object_id="cus_1"), new_event(source_id, object_id="cus_2")
    )
    row = await row_of(pg, theirs)
    async with database.begin() as connection:
        await events.skip(connection, [mine], OPERATOR)
        await pg.execute("BEGIN")
        assert await queue.lock_lanes(pg, (0, 0), LANES) == [(source_id, row.lane)]
        pids = await frozen.find_frozen(other, "relay.lane", 0.0)
        assert pids == [await pg.fetchval("SELECT pg_backend_pid()")]
        await pg.execute("ROLLBACK")


async def test_a_skip_frees_the_source_that_halted_there(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await queue.halt(pg, await row_of(pg, stored), "no_route", "")
    assert await _skip(database, stored) == 1
    assert await _halted(database) is None


async def test_a_skip_leaves_dead_letters_and_their_copies(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await bury(pg, stored, copy=True)
    assert await _skip(database, stored) == 0
    assert await states(pg, stored) == ["dead"]
    assert await pg.fetchval("SELECT count(*) FROM relay.queue WHERE kind = 1") == 1


async def test_a_replayed_event_keeps_its_replay_when_it_is_skipped(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await pg.execute("UPDATE relay.queue SET replay_id = 'rpl_1'")
    await _skip(database, stored)
    assert await pg.fetchval("SELECT replay_id FROM relay.receipt") == "rpl_1"


async def test_an_event_whose_partition_was_taken_away_can_still_be_given_up(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """By hand, with all that belongs to it: there is no place left for a receipt."""
    (stored,) = await store(pg, new_event(source_id))
    for parent in ("inbox", "receipt"):
        name = await pg.fetchval(
            "SELECT min(inhrelid::regclass::text) FROM pg_inherits"
            " WHERE inhparent = $1::text::regclass",
            f"relay.{parent}",
        )
        await pg.execute(f"ALTER TABLE relay.{parent} DETACH PARTITION {name}")
    assert await _skip(database, stored) == 1
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0


# What was done is written down


async def test_the_operator_log_tells_who_did_what_and_why(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    strange = Operator("ann\0\udcff", "because \0 of \ud800")
    async with database.begin() as connection:
        await events.retry(connection, (stored,), OPERATOR)
        await events.skip(connection, [stored], strange)
        await events.log(connection, Operator("ann", None), "source.pause", "src_1")
    rows = await pg.fetch("SELECT * FROM relay.operator_log ORDER BY id")
    assert [(row["who"], row["action"], row["target"], row["reason"]) for row in rows] == [
        ("ann@desk", "event.retry", "1 events", "asked to"),
        ("ann\\0\\udcff", "event.skip", "1 events", "because \\0 of \\ud800"),
        ("ann", "source.pause", "src_1", None),
    ]
    details = [row["details"] for row in rows]
    parsed = [json.loads(each) if isinstance(each, str) else each for each in details]
    one = {"count": 1, "ids": [stored]}
    assert parsed == [one, one, None]


async def test_what_is_rolled_back_was_not_done(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    async with database.begin() as connection:
        assert await events.skip(connection, [stored], OPERATOR) == 1
        await connection.rollback()
    assert await states(pg, stored) == ["pending"]
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


# A whole source


async def test_discarding_a_source_waits_for_its_batches(
    database: Database, pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    stored = await store(
        pg, *(new_event(source_id, object_id=f"cus_{number}") for number in range(20))
    )
    row = await row_of(pg, stored[0])
    batch = pg.transaction()
    await batch.start()
    assert (source_id, row.lane) in await queue.lock_lanes(pg, (source_id, row.lane), 1)

    async def discard() -> tuple[int, int]:
        async with database.begin() as connection:
            return await events.discard_source(connection, source_id, OPERATOR)

    discarding = asyncio.create_task(discard())
    await eventually(lambda: is_waiting(other))
    await receipts.settle(pg, [Settled(row, (Receipt("customer", 0, 1, "{}", "u"),))], None)
    await batch.commit()
    assert await discarding == (19, 0)
    assert await states(other, *stored) == ["delivered"] + ["skipped"] * 19
    assert await other.fetchval("SELECT count(*) FROM relay.receipt") == 20
