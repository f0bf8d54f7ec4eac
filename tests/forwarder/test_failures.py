"""Failures of single events and records, and what they do to those around them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relay.core.transform import StoredEvent, transform
from relay.forwarder import delivery
from relay.kafka import Failure, Flight
from relay.store.events import Operator
from tests.forwarder.world import World, event, id_of, ids_of

OPERATOR = Operator("test", None)


def failing_transform(monkeypatch: pytest.MonkeyPatch, error: Exception, bad: str) -> None:
    """Let the transform raise for one event id."""

    def raise_or_transform(stored: StoredEvent, source: Any) -> Any:
        if stored.event_id == bad:
            raise error
        return transform(stored, source)

    monkeypatch.setattr(delivery, "transform", raise_or_transform)


async def test_a_failure_of_its_own_is_counted_with_backoff_until_it_is_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bad, behind, beside = event(), event(), event(object_id="cus_2")
    inbox_id, _, _ = await world.put(source, bad, behind, beside)
    failing_transform(monkeypatch, ValueError("no \x00 such \ud800 thing"), id_of(bad))
    process = world.process(max_attempts=3, backoff_base_seconds=40.0)
    assert await process.drain() == 2
    assert await world.ids_in("customer") == [id_of(beside)], "later events of its object wait"
    for attempts in (1, 2):
        parked, _ = await world.waiting()
        assert (parked["attempts"], parked["code"]) == (attempts, "transform_error")
        assert parked["error"] == "ValueError: no \\0 such \\ud800 thing"
        assert parked["seconds"] <= 40.0 * 2 ** (attempts - 1)
        assert await world.state_of(inbox_id) == "retrying"
        await world.make_due()
        if attempts == 1:
            assert await process.forwarder.run_once() == 1
    assert await process.drain() == 3, "dead, its copy, and what stood behind it"
    assert await world.state_of(inbox_id) == "dead"
    (letter,) = await world.fetch("SELECT * FROM relay.dead_letters")
    assert (letter["error_code"], letter["attempts"]) == ("transform_error", 3)
    assert id_of(behind) in await world.ids_in("customer")
    history = await world.fetch(
        "SELECT error_code FROM relay.attempt WHERE inbox_id = $1", inbox_id
    )
    assert [row["error_code"] for row in history] == ["transform_error"] * 2


async def test_the_count_of_failures_is_part_of_the_proof(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    process = world.process()
    failing_transform(monkeypatch, ValueError("once"), id_of(body))
    assert await process.drain() == 1
    monkeypatch.undo()
    await world.make_due()
    assert await process.drain() == 1
    assert await world.value("SELECT attempts FROM relay.deliveries") == 1
    assert await world.states() == {id_of(body): "delivered"}


async def test_an_inbox_row_that_cannot_be_found_waits_and_holds_up_no_other_object(
    world: World,
) -> None:
    source = await world.add_source()
    lost, behind, beside = event(), event(), event(object_id="cus_2")
    inbox_id, _, _ = await world.put(source, lost, behind, beside)
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET inbox_id = -1 WHERE inbox_id = $1", inbox_id)
    process = world.process()
    assert await process.drain() == 2
    assert await world.ids_in("customer") == [id_of(beside)]
    waiting = (await world.waiting())[0]
    assert (waiting["code"], waiting["attempts"]) == ("body_missing", 0)
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET inbox_id = $1 WHERE inbox_id = -1", inbox_id)
    await world.make_due()
    assert await process.drain() == 2
    assert len(await world.topic("customer")) == 3


class FlakyProduce:
    """Lets the client refuse records of chosen events, as if their broker had not answered."""

    def __init__(self, kafka: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, Failure] = {}
        self._produce = kafka.produce
        monkeypatch.setattr(kafka, "produce", self)

    def __call__(self, record: Any, flight: Flight) -> None:
        event_id = dict(record.headers)["_event_id"].decode()
        failure = self.failing.get(event_id)
        if failure is None:
            self._produce(record, flight)
        else:
            flight.add()
            flight.refuse(failure)


async def test_after_a_passing_failure_the_last_occurrences_are_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bodies = [event(n=number) for number in range(4)]
    other = event(object_id="cus_2")
    await world.put(source, *bodies, other)
    process = world.process()
    flaky = FlakyProduce(process.kafka, monkeypatch)
    flaky.failing[id_of(bodies[1])] = Failure("transient", "kafka_msg_timed_out", "", 0)
    assert await process.drain() == 3
    one, two, three, four = ids_of(bodies)
    assert await world.states() == {
        one: "delivered",
        two: "pending",
        three: "pending",
        four: "pending",
        id_of(other): "delivered",
    }
    flaky.failing.clear()
    process.shared.delivery._breakers.close(f"{world.prefix}customer", 0)
    await world.make_due()
    assert await process.drain() == 3
    mine = [each for each in await world.ids_in("customer", at_least=7) if each != id_of(other)]
    assert mine == [one, three, four, two, three, four]
    assert set((await world.states()).values()) == {"delivered"}


async def test_one_connection_of_several_makes_the_new_producer(world: World) -> None:
    source = await world.add_source()
    await world.put(source, event())
    process = world.process()
    assert await process.drain() == 1
    before = process.kafka._producer
    process.kafka.mark_lost()
    await world.put(source, event())
    # Several connections see it; one of them makes the new one.
    done = await asyncio.gather(*[process.forwarder.run_once() for _ in range(3)])
    assert sum(done) == 1
    assert process.kafka._producer is not before
    assert not process.kafka.needs_rebuild
    assert len(await world.topic("customer")) == 2


async def test_many_children_come_to_an_end_in_a_batch_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request per record would never fit into the time of a batch."""
    source = await world.add_source(resources=("invoice",), fan_out=("invoice.lines",))
    lines = {"object": "list", "data": [{"id": f"il_{number}"} for number in range(3000)]}
    await world.put(source, event("invoice.paid", "in_1", lines=lines))
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET alone = true")
    flights = 0
    land = Flight.land

    async def count(self: Flight) -> None:
        nonlocal flights
        flights += 1
        await land(self)

    monkeypatch.setattr(Flight, "land", count)
    assert await world.process().drain() == 1
    assert flights == 1
    assert len(await world.topic("invoice_lines")) == 3000


async def test_what_is_too_large_together_is_sent_in_halves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source(resources=("invoice",), fan_out=("invoice.lines",))
    lines = {"object": "list", "data": [{"id": f"il_{number}"} for number in range(9)]}
    (inbox_id,) = await world.put(source, event("invoice.deleted", "in_1", lines=lines))
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET alone = true")
    process = world.process()
    land = Flight.land

    async def refuse_more_than_two(self: Flight) -> None:
        await land(self)
        if len(self.reports) > 2:
            self.reports[:] = [Failure("too_large", "kafka_msg_size_too_large", "")] * len(
                self.reports
            )

    monkeypatch.setattr(Flight, "land", refuse_more_than_two)
    assert await process.drain() == 1
    assert await world.state_of(inbox_id) == "delivered"
    receipts = await world.fetch("SELECT record FROM relay.deliveries ORDER BY record")
    assert [row["record"] for row in receipts] == list(range(10))
