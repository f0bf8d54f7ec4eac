"""A process that freezes with lanes in its hands: others end its transaction, in every state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from relay.forwarder.delivery import Delivery
from relay.store.engine import Database
from relay.store.failures import DATABASE_FAILURES
from tests.forwarder.world import World, event, ids_of
from tests.support.processes import eventually

FROZEN_SECONDS = 0.3

Freeze = Callable[[asyncpg.Connection], Awaitable[Any]]


async def idle(pg: asyncpg.Connection) -> None:
    """Between two statements."""


async def in_a_statement(pg: asyncpg.Connection) -> None:
    """The server works for it, for long."""
    await pg.execute("SELECT pg_sleep(600)")


async def not_reading(pg: asyncpg.Connection) -> None:
    """The server cannot get rid of its answer: far more than fits into any buffer."""
    transport: asyncio.Transport = pg._transport  # type: ignore[attr-defined]
    transport.pause_reading()
    asked = asyncio.create_task(
        pg.execute("SELECT repeat('x', 1000000) FROM generate_series(1, 1000)")
    )
    try:
        await asyncio.shield(asked)
    finally:
        transport.resume_reading()
        await asyncio.wait([asked])


async def _state(world: World, pid: int) -> tuple[str, str | None] | None:
    """What a backend is doing, and what it waits for."""
    found = await world.fetch("SELECT state, wait_event FROM pg_stat_activity WHERE pid = $1", pid)
    return (found[0]["state"], found[0]["wait_event"]) if found else None


STATES = {
    idle: ("idle in transaction", "ClientRead"),
    in_a_statement: ("active", "PgSleep"),
    not_reading: ("active", "ClientWrite"),
}


@pytest.mark.parametrize("freeze", STATES, ids=lambda freeze: freeze.__name__)
async def test_a_frozen_transaction_is_ended_in_any_state_and_cannot_settle_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch, freeze: Freeze
) -> None:
    source = await world.add_source()
    bodies = [event(object_id="cus_1"), event(object_id="cus_1"), event(object_id="cus_2")]
    await world.put(source, *bodies)
    process = world.process()
    claiming: list[asyncpg.Connection] = []
    frozen, thaw = asyncio.Event(), asyncio.Event()
    claim, send = process.forwarder._claim, Delivery.send

    async def remember(pg: asyncpg.Connection, suspect: Any) -> Any:
        claiming.append(pg)
        return await claim(pg, suspect)

    async def send_and_freeze(self: Delivery, *arguments: Any) -> None:
        # Kafka has taken everything; the process freezes before it knows.
        await send(self, *arguments)
        freezing = asyncio.create_task(freeze(claiming[0]))  # type: ignore[arg-type]
        frozen.set()
        await thaw.wait()
        freezing.cancel()
        await asyncio.wait([freezing])

    monkeypatch.setattr(process.forwarder, "_claim", remember)
    monkeypatch.setattr(Delivery, "send", send_and_freeze)
    running = asyncio.create_task(process.forwarder.run_once())
    await asyncio.wait_for(frozen.wait(), 30)
    pid = await world.value("SELECT backend_pid FROM relay.batch_note")
    await eventually(lambda: _is(world, pid, STATES[freeze]))
    monkeypatch.setattr(Delivery, "send", send)

    other = world.process()
    assert await other.drain() == 0
    await eventually(world.process(frozen_after_seconds=FROZEN_SECONDS).recovery.run_once)
    await eventually(lambda: _is(world, pid, None))
    # Its backend is gone, its records may still be on their way: the lanes rest.
    assert await other.drain() == 0
    await world.age_notes()
    assert await other.recovery.run_once() == 1
    assert await other.drain() == 3

    settled = await world.fetch("SELECT * FROM relay.deliveries ORDER BY inbox_id")
    thaw.set()
    with pytest.raises(DATABASE_FAILURES):
        await running
    assert await world.fetch("SELECT * FROM relay.deliveries ORDER BY inbox_id") == settled
    assert sorted(await world.ids_in("customer", at_least=6)) == sorted(ids_of(bodies) * 2)
    # The one that froze goes on as if nothing had been.
    await world.put(source, event())
    assert await process.drain() == 1
    assert await world.notes() == []


async def _is(world: World, pid: int, state: tuple[str, str | None] | None) -> bool:
    return await _state(world, pid) == state


async def test_what_is_not_old_enough_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    await world.put(source, event())
    process, other = world.process(), world.process()
    send = Delivery.send

    async def look(self: Delivery, *arguments: Any) -> None:
        assert await other.recovery.run_once() == 0
        await send(self, *arguments)

    monkeypatch.setattr(Delivery, "send", look)
    assert await process.drain() == 1


async def test_only_those_that_hold_lanes_are_ended(world: World) -> None:
    """However long the transactions of others last: they read the same tables, and no lane."""
    other = world.process(frozen_after_seconds=0.0)
    async with world.database.driver() as pg, pg.transaction():
        await pg.fetch("SELECT * FROM relay.lane, relay.queue, relay.source")
        assert await other.recovery.run_once() == 0
        assert await pg.fetchval("SELECT 1") == 1


async def test_the_server_itself_ends_a_client_that_sleeps_in_its_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when there is no other process that could."""
    source = await world.add_source()
    await world.put(source, event())
    process = world.process()
    # Of the server alone: our own patience would cut a slow batch before it comes to send.
    process.shared.idle_ms = 1000
    send, frozen = Delivery.send, asyncio.Event()

    async def freeze(self: Delivery, *arguments: Any) -> None:
        await send(self, *arguments)
        monkeypatch.setattr(Delivery, "send", send)
        frozen.set()
        await eventually(lambda: _no_lane_is_held(world))

    monkeypatch.setattr(Delivery, "send", freeze)
    with pytest.raises(DATABASE_FAILURES):
        await process.forwarder.run_once()
    assert frozen.is_set()
    await process.shared.withdraw_orphan_notes()
    assert await world.process().drain() == 1
    assert await world.notes() == []


async def _no_lane_is_held(world: World) -> bool:
    return not await world.value(
        "SELECT count(*) FROM pg_locks l WHERE l.relation = 'relay.lane'::regclass"
        " AND l.mode = 'RowShareLock'"
        " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )


async def test_a_transaction_that_may_not_be_ended_does_not_stop_the_recovery(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator holds lanes as another role, for longer than a batch may."""
    source = await world.add_source()
    await world.put(source, event())
    process = world.process(frozen_after_seconds=0.0)
    await _leave_a_dead_note(world)
    role = "limited_" + world.prefix.rstrip("-")
    async with world.database.driver() as pg:
        await pg.execute(
            f"CREATE ROLE \"{role}\" LOGIN PASSWORD '{role}'"
            " IN ROLE relay_forwarder, pg_read_all_stats"
        )
    place = world.database.dsn.rpartition("@")[2]
    limited = Database(f"postgresql://{role}:{role}@{place}")
    monkeypatch.setattr(process.shared, "database", limited)
    async with world.database.driver() as operator:
        await operator.execute("BEGIN; SELECT FROM relay.lane WHERE lane = 63 FOR NO KEY UPDATE")
        try:
            assert await process.recovery.run_once() == 1
        finally:
            await operator.execute("ROLLBACK")
            await limited.close()
            await operator.execute(f'DROP ROLE "{role}"')


async def _leave_a_dead_note(world: World) -> None:
    async with world.database.driver() as pg:
        await pg.execute(
            "INSERT INTO relay.batch_note SELECT gen_random_uuid(), gen_random_uuid(), 1,"
            " now() - interval '1 hour', array_agg(source_id), array_agg(lane), array_agg(number)"
            " FROM relay.queue"
        )
