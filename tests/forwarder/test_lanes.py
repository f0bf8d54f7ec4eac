"""Lanes: what keeps the order of a key with any number of processes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from relay.core.routing import key_of, lane_of
from relay.store import queue, receipts
from relay.store.receipts import Receipt, Settled
from tests.forwarder.world import Process, World, event, id_of, ids_of
from tests.support.processes import eventually

ANY_START = (0, 0)


def same_lane() -> tuple[str, str]:
    """Two objects whose events share a lane."""
    seen: dict[int, str] = {}
    for number in itertools.count():
        object_id = f"cus_{number}"
        lane, _ = lane_of(key_of(object_id))
        if lane in seen:
            return seen[lane], object_id
        seen[lane] = object_id
    raise AssertionError


async def begin(pg: asyncpg.Connection) -> None:
    await pg.execute(queue.BEGIN.format(idle_ms=30_000))


@asynccontextmanager
async def connections(world: World) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    async with world.database.driver() as one, world.database.driver() as two:
        yield one, two


async def test_hot_keys_keep_their_order_with_two_processes(world: World) -> None:
    source = await world.add_source()
    objects, count = 12, 1200
    bodies = [event(object_id=f"cus_{number % objects}", n=number) for number in range(count)]
    processes = [world.process(batch_rows=40) for _ in range(2)]
    stored = asyncio.Event()

    async def put_all() -> None:
        for start in range(0, count, 60):
            await world.put(source, *bodies[start : start + 60])
        stored.set()

    async def forward(process: Process) -> None:
        while not stored.is_set() or await world.value("SELECT count(*) FROM relay.queue"):
            await process.forwarder.run_once()

    await asyncio.gather(put_all(), *map(forward, processes))
    of_key: dict[bytes, list[int]] = {}
    for message in await world.topic("customer", at_least=count):
        value = json.loads(message.value() or b"")
        of_key.setdefault(bytes(message.key() or b""), []).append(value["n"])
    expected = [list(range(first, count, objects)) for first in range(objects)]
    assert sorted(of_key.values()) == expected, "each once, and in order"
    assert await world.notes() == []
    both = await world.fetch("SELECT DISTINCT inbox_id FROM relay.deliveries")
    assert len(both) == count


async def _set_trap(world: World) -> None:
    """Let the locking statement of one session stop after its snapshot, before it has any lock.

    There it waits until it can have advisory lock 42.
    """
    async with world.database.driver() as pg:
        await pg.execute(
            """
            CREATE FUNCTION relay.trap() RETURNS bool VOLATILE LANGUAGE plpgsql AS $$BEGIN
                IF current_setting('relay.trapped', true) = 'yes' THEN
                    PERFORM pg_advisory_lock_shared(42);
                END IF;
                RETURN true;
            END$$;
            ALTER TABLE relay.source RENAME TO source_itself;
            CREATE VIEW relay.source AS SELECT * FROM relay.source_itself WHERE relay.trap();
            """
        )


async def _in_the_trap(world: World) -> bool:
    return bool(
        await world.value(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )


@pytest.mark.parametrize("how", ["settled", "died"])
async def test_rows_are_read_after_their_lanes_were_locked(world: World, how: str) -> None:
    """The locking statement may still see what the last owner of the lane has just done away.

    Its snapshot is older than the owner's commit, its lock is younger.
    """
    source = await world.add_source()
    await world.put(source, event())
    await _set_trap(world)
    async with world.database.driver() as gate, connections(world) as (owner, late):
        await gate.execute("SELECT pg_advisory_lock(42)")
        await begin(owner)
        lanes = await queue.lock_lanes(owner, ANY_START, 16)
        rows = await queue.read_lanes(owner, lanes, 10)
        assert len(rows) == 1
        await begin(late)
        await late.execute("SET LOCAL relay.trapped = 'yes'")
        locking = asyncio.create_task(queue.lock_lanes(late, ANY_START, 16))
        await eventually(lambda: _in_the_trap(world))
        # The late one has its snapshot. Now the owner comes to its end.
        if how == "settled":
            done = [Settled(rows[0], (Receipt("customer", 0, 0, "{}", "u"),))]
            await receipts.settle(owner, done, None)
            await owner.execute("COMMIT")
        else:
            await queue.write_note(
                gate, uuid4(), uuid4(), await owner.fetchval("SELECT pg_backend_pid()"), rows
            )
            await owner.execute("ROLLBACK")
        await gate.execute("SELECT pg_advisory_unlock(42)")
        assert await locking == lanes, "the trap works: it got the lane for what it had seen"
        assert await queue.read_lanes(late, lanes, 10) == []
        await late.execute("ROLLBACK; SELECT pg_advisory_unlock_all()")


async def test_the_isolation_is_stated_whatever_the_default_is(
    world: World,
) -> None:
    source = await world.add_source()
    await world.put(source, event())
    async with connections(world) as (owner, late):
        await late.execute("SET default_transaction_isolation = 'repeatable read'")
        await begin(owner)
        lanes = await queue.lock_lanes(owner, ANY_START, 16)
        rows = await queue.read_lanes(owner, lanes, 10)
        await begin(late)
        assert await queue.lock_lanes(late, ANY_START, 16) == [], "passed over, not waited for"
        await receipts.settle(owner, [Settled(rows[0], (), "unselected")], None)
        await owner.execute("COMMIT")
        assert await queue.lock_lanes(late, ANY_START, 16) == [], "nothing to do is seen at once"
        await late.execute("ROLLBACK")
        await late.execute("RESET default_transaction_isolation")


async def test_a_default_of_read_only_does_not_stop_the_claim(world: World) -> None:
    async with world.database.driver() as pg:
        await pg.execute("SET default_transaction_read_only = on")
        await begin(pg)
        assert await pg.fetchval("SHOW transaction_read_only") == "off"
        assert await pg.fetchval("SHOW synchronous_commit") == "on"
        await pg.execute("ROLLBACK; RESET default_transaction_read_only")


async def test_lanes_that_others_hold_are_passed_over(world: World) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(30)]
    await world.put(source, *bodies)
    process = world.process()
    async with world.database.driver() as pg:
        await begin(pg)
        held = await queue.lock_lanes(pg, ANY_START, 5)
        assert len(held) == 5
        theirs = {row.inbox_id for row in await queue.read_lanes(pg, held, 100)}
        assert await process.drain() == 30 - len(theirs)
        assert {row.inbox_id for row in await world.queued()} == theirs
        await pg.execute("ROLLBACK")
    assert await process.drain() == len(theirs)
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))


async def test_the_search_for_lanes_goes_round_and_takes_none_twice(world: World) -> None:
    source = await world.add_source()
    await world.put(source, *[event(object_id=f"cus_{number}") for number in range(300)])
    async with world.database.driver() as pg:
        await begin(pg)
        lanes = await queue.lock_lanes(pg, (source.source_id, 40), 64)
        assert [lane for _, lane in lanes] == [*range(40, 64), *range(40)]
        await pg.execute("ROLLBACK")
        await begin(pg)
        lanes = await queue.lock_lanes(pg, (source.source_id, 60), 8)
        assert [lane for _, lane in lanes] == [60, 61, 62, 63, 0, 1, 2, 3]
        await pg.execute("ROLLBACK")


async def test_a_parked_row_holds_up_its_key_and_no_other_of_its_lane(world: World) -> None:
    source = await world.add_source()
    one, two = same_lane()
    bodies = [event(object_id=one), event(object_id=one), event(object_id=two)]
    parked, behind, beside = ids_of(bodies)
    await world.put(source, *bodies)
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue SET visible_at = now() + interval '1 hour' WHERE number ="
            " (SELECT min(number) FROM relay.queue)"
        )
    process = world.process()
    assert await process.drain() == 1
    assert await world.ids_in("customer") == [beside]
    await world.make_due()
    assert await process.drain() == 2
    delivered = await world.ids_in("customer", at_least=3)
    assert [each for each in delivered if each != beside] == [parked, behind]


async def test_a_suspect_is_claimed_among_many_busy_lanes(world: World) -> None:
    """Found by one claim, it is the one that the next claim takes, wherever others begin."""
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(400)]
    await world.put(source, *bodies)
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue SET alone = true WHERE number ="
            " (SELECT min(number) FROM relay.queue)"
        )
    process = world.process()
    lane = (await world.queued())[0].lane
    claims: list[list[int]] = []
    forward = process.forwarder._forward

    async def spy(pg: asyncpg.Connection, rows: list[queue.QueueRow]) -> int:
        claims.append([row.number for row in rows])
        return await forward(pg, rows)

    process.forwarder._forward = spy  # type: ignore[method-assign]
    start_there = lambda ids: source.source_id  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relay.forwarder.forwarder.random.choice", start_there)
        patch.setattr("relay.forwarder.forwarder.random.randrange", lambda lanes: lane)
        assert await process.forwarder.run_once() == 1
    suspect = min(row.number for row in await world.queued()) - 1
    assert claims == [[suspect]]
    assert id_of(bodies[0]) in await world.ids_in("customer")


async def test_lanes_of_which_every_row_waits_hold_up_no_other_source(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Kafka refuses all that a source has, for its time: the followers look claimable."""
    stuck = await world.add_source("stuck")
    for _ in range(2):
        await world.put(stuck, *[event(object_id=f"cus_{number}") for number in range(300)])
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue q SET visible_at = now() + interval '1 hour' WHERE NOT EXISTS"
            " (SELECT FROM relay.queue p WHERE p.key_hash = q.key_hash AND p.number < q.number)"
        )
    source = await world.add_source("main", topic_prefix=world.prefix + "m.")
    body = event()
    await world.put(source, body)
    process = world.process()
    # The worst beginning: all lanes of the stuck source come first.
    monkeypatch.setattr("relay.forwarder.forwarder.random.choice", lambda _: stuck.source_id)
    monkeypatch.setattr("relay.forwarder.forwarder.random.randrange", lambda _: 0)
    monkeypatch.setattr("relay.forwarder.forwarder._LOOKS", 5)
    assert await process.forwarder.run_once() == 1
    assert await world.ids_in("m.customer") == [id_of(body)]
