"""The database goes away in the middle: repeats are allowed, losses and swaps are not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from relay.forwarder import Forwarder
from relay.forwarder.delivery import Delivery
from relay.store import queue, receipts
from relay.store.failures import DATABASE_FAILURES
from relay.store.receipts import Settled
from tests.forwarder.world import Process, World, event, id_of
from tests.support.processes import eventually


async def end_all_connections(world: World) -> None:
    """As in a restart or a failover: every connection to the database is gone."""
    async with world.database.driver() as pg:
        await pg.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def forward(process: Process, until: asyncio.Event) -> int:
    """Run a connection as the supervisor would; returns how often the database was away."""
    away = 0
    forwarder = Forwarder(process.shared)
    while not until.is_set():
        try:
            await process.shared.load_sources()
            await forwarder.run_once()
        except DATABASE_FAILURES:
            away += 1
    return away


async def test_connections_that_end_under_load_lose_and_swap_nothing(world: World) -> None:
    source = await world.add_source()
    objects, count = 8, 1600
    bodies = [event(object_id=f"cus_{number % objects}", n=number) for number in range(count)]
    processes = [world.process(batch_rows=50) for _ in range(2)]
    done = asyncio.Event()

    async def put_and_disturb() -> None:
        try:
            for number, start in enumerate(range(0, count, 50)):
                while True:
                    try:
                        await world.put(source, *bodies[start : start + 50])
                        break
                    except DATABASE_FAILURES:
                        pass  # ended by ourselves, and rolled back
                if number % 4 == 3:
                    await end_all_connections(world)
            await eventually(lambda: _all_settled(world), deadline=60)
        finally:
            done.set()

    # Two connections in each process share its producer.
    running = [forward(process, done) for process in processes for _ in range(2)]
    _, *away = await asyncio.gather(put_and_disturb(), *running)
    assert sum(away) > 0, "the test disturbed nobody"
    assert await world.notes() == []
    assert set((await world.states()).values()) == {"delivered"}
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0
    assert await world.fetch("SELECT * FROM relay.dead_letter") == []

    of_key: dict[bytes, list[int]] = {}
    for message in await world.topic("customer", at_least=count):
        value = json.loads(message.value() or b"")
        of_key.setdefault(bytes(message.key() or b""), []).append(value["n"])
    for numbers in of_key.values():
        last = list(dict.fromkeys(reversed(numbers)))[::-1]
        assert last == sorted(last), "the last occurrences are in order"
    assert sorted(n for numbers in of_key.values() for n in set(numbers)) == list(range(count))


async def _all_settled(world: World) -> bool:
    try:
        return not await world.value("SELECT count(*) FROM relay.queue")
    except DATABASE_FAILURES:
        return False


@pytest.mark.parametrize("when", ["note", "locks"])
async def test_a_batch_that_lost_its_lanes_before_it_was_produced_is_not_produced(
    world: World, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Somebody else may have the lanes by then."""
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    process = world.process()
    write = queue.write_note

    async def lose(notes: asyncpg.Connection, *arguments: Any) -> None:
        monkeypatch.setattr(queue, "write_note", write)
        claiming = arguments[2]
        if when == "note":
            await write(notes, *arguments)
        await notes.execute("SELECT pg_terminate_backend($1)", claiming)
        await eventually(lambda: _gone(world, claiming))
        if when == "locks":
            await write(notes, *arguments)

    monkeypatch.setattr(queue, "write_note", lose)
    with pytest.raises(DATABASE_FAILURES):
        await process.drain()
    assert await world.topic("customer") == []
    assert await process.drain() == 1
    assert await world.ids_in("customer") == [id_of(body)]
    assert await world.notes() == []


async def _gone(world: World, pid: int) -> bool:
    return not await world.value("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)


async def test_a_row_that_somebody_else_has_settled_rolls_the_batch_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot happen while everybody locks lanes; should it happen, nothing is proved twice."""
    source = await world.add_source()
    bodies = [event(object_id="cus_1"), event(object_id="cus_2")]
    ids = await world.put(source, *bodies)
    process = world.process()
    send = Delivery.send

    async def steal(self: Delivery, *arguments: Any) -> None:
        await send(self, *arguments)
        async with world.database.driver() as pg:
            await pg.execute("DELETE FROM relay.queue WHERE inbox_id = $1", ids[0])

    monkeypatch.setattr(Delivery, "send", steal)
    with pytest.raises(RuntimeError, match="settled by someone else"):
        await process.drain()
    assert await world.fetch("SELECT * FROM relay.receipt") == []
    assert [row.inbox_id for row in await world.queued()] == [ids[1]]


async def test_nothing_is_settled_without_a_proof(world: World) -> None:
    source = await world.add_source()
    await world.put(source, event())
    (row,) = await world.queued()
    async with world.database.driver() as pg:
        with pytest.raises(ValueError, match="nothing proves"):
            await receipts.settle(pg, [Settled(row, ())], None)
    assert len(await world.queued()) == 1
