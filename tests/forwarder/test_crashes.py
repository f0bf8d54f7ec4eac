"""Processes that die or freeze: notes, suspects, fences, and who may settle what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from relay.forwarder.delivery import Delivery
from relay.store import queue, receipts, sources
from relay.store.events import Operator, retry, skip
from relay.store.failures import DATABASE_FAILURES
from tests.forwarder.world import Process, World, event, id_of, ids_of
from tests.support.processes import eventually


class CrashError(BaseException):
    """As abrupt as a test can be within one process: nothing may tidy up after it."""


def crash_while_sending(process: Process, when: Callable[[], bool] = lambda: True) -> None:
    """Let the process 'die' after its note and before its first record: nothing is tidied up."""
    delivery, forwarder = process.shared.delivery, process.forwarder

    async def die(*_: object) -> None:
        raise CrashError

    async def no_time(*_: object, **__: object) -> None:
        pass

    delivery.send = die  # type: ignore[method-assign]
    delivery.send_alone = die  # type: ignore[method-assign]
    forwarder._abandon = no_time  # type: ignore[method-assign]


async def crash(world: World, *, times: int = 1) -> None:
    """A process claims a batch and dies with it; its note becomes old enough to be looked at."""
    for _ in range(times):
        process = world.process()
        crash_while_sending(process)
        with pytest.raises(CrashError):
            await process.forwarder.run_once()
        assert len(await world.notes()) == 1
        await world.age_notes()
        await world.process().recovery.run_once()


async def test_the_note_is_committed_before_the_first_record_and_goes_with_the_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(5)]
    ids = await world.put(source, *bodies)
    process = world.process()
    seen: list[asyncpg.Record] = []
    send = Delivery.send

    async def look_and_send(self: Delivery, *arguments: Any) -> None:
        seen.extend(await world.notes())
        await send(self, *arguments)

    monkeypatch.setattr(Delivery, "send", look_and_send)
    await process.drain()
    (note,) = seen
    assert sorted(note["numbers"]) == ids
    assert note["process_id"] == process.shared.process_id
    assert set(note["source_ids"]) == {source.source_id}
    assert await world.notes() == []


async def test_the_lanes_of_a_dead_batch_rest_until_its_records_cannot_come_any_more(
    world: World,
) -> None:
    source = await world.add_source()
    body = event("customer.created")
    await world.put(source, body)
    process = world.process()
    crash_while_sending(process)
    with pytest.raises(CrashError):
        await process.forwarder.run_once()

    other = world.process()
    fence = other.shared.settings.delivery_timeout_seconds
    fence += other.shared.settings.fence_margin_seconds
    beside = event("customer.created", "cus_beside")
    await world.put(source, beside)
    assert await other.drain() == 1, "other lanes go on"
    assert await other.recovery.run_once() == 0
    # Most of the time is left to the machine, which may be slow.
    await world.age_notes(1)
    assert await other.recovery.run_once() == 0
    assert await other.drain() == 0
    await world.age_notes(fence - 1)
    assert await other.recovery.run_once() == 1
    (suspect,) = await world.queued()
    assert (suspect.alone, suspect.crashes) == (True, 0), "it was not known to be alone"
    assert await other.drain() == 1
    assert await world.ids_in("customer", at_least=2)
    assert (await world.states())[id_of(body)] == "delivered"
    assert await world.notes() == []


async def test_suspects_are_tried_alone_and_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number % 3}") for number in range(9)]
    await world.put(source, *bodies)
    await crash(world)
    assert all(row.alone for row in await world.queued())
    alone: list[str] = []
    send_alone = Delivery.send_alone

    async def look(self: Delivery, plan: Any, *rest: Any) -> None:
        alone.append(plan.event.event_id)
        await send_alone(self, plan, *rest)

    monkeypatch.setattr(Delivery, "send_alone", look)
    await world.process().drain()
    assert sorted(alone) == sorted(ids_of(bodies))
    for key in range(3):
        expected = ids_of(bodies)[key::3]
        assert [each for each in alone if each in expected] == expected
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))


async def test_an_event_that_kills_its_process_alone_three_times_is_dead(world: World) -> None:
    source = await world.add_source()
    poison = event("customer.created", "cus_poison")
    innocent = event("customer.created", "cus_innocent")
    behind = event("customer.updated", "cus_poison")
    (inbox_id,) = await world.put(source, poison)
    await world.put(source, innocent)
    await crash(world)
    # The innocent one is tried alone as well, and is settled.
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue SET visible_at = now() + interval '1 hour' WHERE inbox_id = $1",
            inbox_id,
        )
    process = world.process()
    assert await process.drain() == 1
    assert await world.ids_in("customer") == [id_of(innocent)]
    await world.put(source, behind)
    await world.make_due()
    for crashes in (1, 2):
        await crash(world)
        first = (await world.queued())[0]
        assert (first.inbox_id, first.crashes) == (inbox_id, crashes)
        assert await world.state_of(inbox_id) == "pending"
    await crash(world)
    assert await world.state_of(inbox_id) == "dead"
    (letter,) = await world.fetch("SELECT * FROM relay.dead_letters")
    assert (letter["error_code"], letter["attempts"]) == ("crashed_worker", 3)
    assert await process.drain() == 2, "the copy of the dead letter, and what stood behind it"
    assert await world.state_of(inbox_id) == "dead"
    assert id_of(behind) in await world.ids_in("customer")
    (copy,) = await world.topic("dead_letter")
    assert copy.value() == poison


async def test_without_a_dead_letter_queue_its_source_halts(world: World) -> None:
    source = await world.add_source(dlq=False)
    poison = event("customer.created", "cus_poison")
    (inbox_id,) = await world.put(source, poison)
    await crash(world, times=4)
    (halted,) = await world.fetch("SELECT halted_code, halted_number FROM relay.source")
    assert (halted["halted_code"], halted["halted_number"]) == ("crashed_worker", inbox_id)
    assert await world.state_of(inbox_id) == "pending"
    await world.put(source, event(object_id="cus_2"))
    process = world.process()
    assert await process.drain() == 0
    async with world.database.begin() as connection:
        await sources.resume(connection, source.source_id)
    # This time it lives: alone, and the count is gone with the row.
    assert await process.drain() == 2
    assert await world.state_of(inbox_id) == "delivered"


async def test_a_batch_that_happened_to_have_one_row_is_no_proof_against_it(world: World) -> None:
    source = await world.add_source()
    await world.put(source, event())
    await crash(world)
    (row,) = await world.queued()
    assert (row.alone, row.crashes) == (True, 0), "other batches were in the process"
    await crash(world)
    (row,) = await world.queued()
    assert (row.alone, row.crashes) == (True, 1)


async def test_an_error_of_our_own_is_treated_like_a_crash(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that makes the batch fail in a way that nobody has thought of holds up no other."""
    source = await world.add_source()
    bad, good = event(object_id="cus_bad"), event(object_id="cus_good")
    bad_id, _ = await world.put(source, bad, good)
    settle = receipts.settle

    async def fail(pg: asyncpg.Connection, settled: Any, note_id: Any) -> None:
        if any((each.row.inbox_id, each.row.kind) == (bad_id, 0) for each in settled):
            raise KeyError("nobody has thought of this")
        await settle(pg, settled, note_id)

    monkeypatch.setattr(receipts, "settle", fail)
    process = world.process()
    for _ in range(4):
        with pytest.raises(KeyError):
            await process.drain()
        assert len(await world.notes()) == 1
        await world.age_notes()
        await process.recovery.run_once()
    await process.drain()
    assert await world.state_of(bad_id) == "dead"
    assert (await world.states())[id_of(good)] == "delivered"


async def test_what_the_database_took_away_is_claimed_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event("customer.created"), event("customer.updated")]
    await world.put(source, *bodies)
    process = world.process()
    settle = receipts.settle

    async def lose_connection(pg: asyncpg.Connection, settled: Any, note_id: Any) -> None:
        monkeypatch.setattr(receipts, "settle", settle)
        await _terminate(world, await pg.fetchval("SELECT pg_backend_pid()"))
        await settle(pg, settled, note_id)

    monkeypatch.setattr(receipts, "settle", lose_connection)
    with pytest.raises(DATABASE_FAILURES):
        await process.drain()
    assert len(await world.notes()) == 1
    assert len(process.shared.orphan_notes) == 1
    assert await process.drain() == 2
    assert await world.notes() == []
    assert not any(row.alone for row in await world.queued())
    # Kafka had taken them already: they are repeated, all of them and in order.
    assert await world.ids_in("customer", at_least=4) == ids_of(bodies) * 2
    assert set((await world.states()).values()) == {"delivered"}
    places = await world.fetch('SELECT "offset" FROM relay.deliveries ORDER BY inbox_id')
    assert [row["offset"] for row in places] == [2, 3], "the receipts prove the last ones"


async def _terminate(world: World, pid: int) -> None:
    await world.value("SELECT pg_terminate_backend($1)", pid)
    await eventually(lambda: _gone(world, pid))


async def _gone(world: World, pid: int) -> bool:
    return not await world.value("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid)


async def test_a_live_batch_keeps_its_lanes_however_old_its_note_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    process, other = world.process(), world.process()
    send = Delivery.send

    async def linger(self: Delivery, *arguments: Any) -> None:
        await world.age_notes()
        assert await other.recovery.run_once() == 0
        assert await other.drain() == 0
        await send(self, *arguments)

    monkeypatch.setattr(Delivery, "send", linger)
    assert await process.drain() == 1
    assert await world.ids_in("customer") == [id_of(body)]


async def test_a_note_that_settles_while_it_is_looked_at_is_left_alone(world: World) -> None:
    source = await world.add_source()
    await world.put(source, event())
    async with world.database.driver() as pg, world.database.driver() as notes:
        await pg.execute(queue.BEGIN.format(idle_ms=30_000))
        lanes = await queue.lock_lanes(pg, (0, 0), 16)
        rows = await queue.read_lanes(pg, lanes, 10)
        process = world.process()
        note_id = process.shared.process_id
        await queue.write_note(
            notes, note_id, note_id, await pg.fetchval("SELECT pg_backend_pid()"), rows
        )
        async with notes.transaction():
            assert await queue.take_dead_note(notes, note_id, 3) is None
        await pg.execute("COMMIT")
        await queue.delete_note(notes, note_id)
        async with notes.transaction():
            assert await queue.take_dead_note(notes, note_id, 3) is None
    assert not any(row.alone for row in await world.queued())


async def test_operators_wait_for_a_batch_and_do_not_spoil_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    ids = await world.put(source, event(object_id="cus_1"), event(object_id="cus_2"))
    process = world.process()
    send = Delivery.send
    operations: list[asyncio.Task[int]] = []

    async def operate(action: Any, inbox_id: int) -> int:
        async with world.database.begin() as connection:
            return int(await action(connection, [inbox_id], Operator("test", None)))

    async def interfere(self: Delivery, *arguments: Any) -> None:
        operations.append(asyncio.create_task(operate(skip, ids[0])))
        await eventually(lambda: _waits_for_a_lane(world))
        assert await operate(retry, ids[1]) == 1
        await send(self, *arguments)

    monkeypatch.setattr(Delivery, "send", interfere)
    assert await process.drain() == 2
    assert [await each for each in operations] == [0], "it was delivered before it could be skipped"
    assert set((await world.states()).values()) == {"delivered"}


async def _waits_for_a_lane(world: World) -> bool:
    return bool(
        await world.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() AND query LIKE '%relay.lane%'"
        )
    )
