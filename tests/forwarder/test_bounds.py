"""How much of the line a batch takes, how much memory, and what must be alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.forwarder import Forwarder
from relay.forwarder.delivery import Delivery
from relay.store import queue
from tests.forwarder.world import World, event, header, id_of, ids_of
from tests.support.processes import eventually

MB = 1024 * 1024


async def test_a_batch_is_bounded_by_rows(world: World) -> None:
    source = await world.add_source()
    await world.put(source, *[event(n=number) for number in range(25)])
    process = world.process(batch_rows=10)
    assert [await process.forwarder.run_once() for _ in range(4)] == [10, 10, 5, 0]


async def test_a_batch_is_bounded_by_bytes_and_has_at_least_one_row(world: World) -> None:
    source = await world.add_source()
    bodies = [event(note="x" * 1000), event(note="x" * 1000), event(note="x" * 90_000), event()]
    await world.put(source, *bodies)
    process = world.process(batch_bytes=5000)
    assert [await process.forwarder.run_once() for _ in range(4)] == [2, 1, 1, 0]
    assert await world.ids_in("customer") == ids_of(bodies)


@pytest.mark.slow
async def test_large_events_pass_one_after_the_other_in_bounded_memory(world: World) -> None:
    source = await world.add_source()
    for number in range(6):
        # It compresses well: Kafka's limit counts after compression.
        await world.put(source, event(object_id=f"cus_{number}", note="x" * (40 * MB)))
    await world.put(source, event(object_id="cus_0", note="behind"))
    process = world.process()
    before = _peak_bytes(reset=True)
    assert await process.drain() == 7
    grown = _peak_bytes() - before
    assert set((await world.states()).values()) == {"delivered"}
    # The bodies of all six are 240 MB, before any copy; the driver, the transform and the client
    # copy the one in hand.
    assert grown < 6 * 40 * MB, f"{grown // MB} MB"


def _peak_bytes(*, reset: bool = False) -> int:
    """The most memory that this process has had at once (since the last reset)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def test_a_suspect_has_its_process_for_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(200)]
    ids = await world.put(source, *bodies)
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET alone = true WHERE inbox_id = ANY ($1)", ids[::40])
    process = world.process(batch_rows=5)
    inside: list[str] = []
    together: list[list[str]] = []
    send, send_alone = Delivery.send, Delivery.send_alone

    async def together_send(self: Delivery, *arguments: Any) -> None:
        inside.append("ordinary")
        await send(self, *arguments)
        inside.remove("ordinary")

    async def alone_send(self: Delivery, *arguments: Any) -> None:
        inside.append("alone")
        await send_alone(self, *arguments)
        await asyncio.sleep(0)
        together.append(list(inside))
        inside.remove("alone")

    monkeypatch.setattr(Delivery, "send", together_send)
    monkeypatch.setattr(Delivery, "send_alone", alone_send)

    async def forward(forwarder: Forwarder) -> None:
        while await world.value("SELECT count(*) FROM relay.queue"):
            await forwarder.run_once()

    await asyncio.gather(*[forward(Forwarder(process.shared)) for _ in range(3)])
    assert together == [["alone"]] * 5
    assert set((await world.states()).values()) == {"delivered"}


async def test_a_slow_read_starts_the_fence_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Big bodies over a slow line: the time for producing must not be over when they are there."""
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    process = world.process(fence_margin_seconds=1.0)
    read = queue.read_events
    renewed: list[object] = []
    renew = queue.renew_note

    async def read_slowly(pg: Any, rows: Any) -> Any:
        note = (await world.notes())[0]
        await eventually(lambda: _older_than(world, note["started_at"], 1.0))
        return await read(pg, rows)

    async def remember(pg: Any, note_id: object) -> None:
        before = (await world.notes())[0]["started_at"]
        await renew(pg, note_id)
        after = (await world.notes())[0]["started_at"]
        assert after > before
        renewed.append(note_id)

    monkeypatch.setattr(queue, "read_events", read_slowly)
    monkeypatch.setattr(queue, "renew_note", remember)
    assert await process.drain() == 1
    assert len(renewed) == 1
    (message,) = await world.topic("customer")
    assert header(message, "_event_id") == id_of(body)


async def _older_than(world: World, moment: Any, seconds: float) -> bool:
    return bool(
        await world.value(
            "SELECT clock_timestamp() - $1::timestamptz > make_interval(secs => $2)",
            moment,
            seconds,
        )
    )


async def test_what_cannot_be_handed_over_in_time_stays_and_nothing_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(6)]
    await world.put(source, *bodies)
    process = world.process()
    produce, handed = process.kafka.produce, 0
    clock, late = asyncio.get_running_loop().time, 0.0

    def slow(record: Any, flight: Any) -> None:
        nonlocal handed, late
        produce(record, flight)
        handed += 1
        if handed == 3:
            late = 3600.0

    monkeypatch.setattr(process.kafka, "produce", slow)
    monkeypatch.setattr(process.shared.delivery, "_clock", lambda: clock() + late)
    assert await process.forwarder.run_once() == 3
    assert [row["code"] for row in await world.waiting()] == [None] * 3
    late = 0.0
    assert await process.drain() == 3
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))


async def test_a_full_client_queue_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number}") for number in range(50)]
    await world.put(source, *bodies)
    process = world.process(kafka_properties={"queue.buffering.max.messages": "3"})
    await process.drain()
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0
