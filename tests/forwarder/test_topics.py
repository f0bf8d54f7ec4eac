"""Topics and partitions that are away: what waits, and what goes on beside it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic

from relay.forwarder import delivery
from relay.kafka import Failure, Flight
from tests.forwarder.world import World, event, id_of
from tests.support.processes import eventually


async def test_one_bad_partition_is_put_aside_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    process = world.process()
    produce = process.kafka.produce
    bad_partition, tried = 1, 0

    def refuse_one_partition(record: Any, flight: Flight) -> None:
        nonlocal tried
        if delivery.partition_of(record.key, 3) == bad_partition:
            tried += 1
            flight.add()
            flight.refuse(Failure("transient", "kafka_msg_timed_out", "", bad_partition))
        else:
            produce(record, flight)

    bodies = [event(object_id=f"cus_{number}") for number in range(60)]
    bad = sum(
        delivery.partition_of(b'{"id":"cus_%d"}' % number, 3) == bad_partition
        for number in range(60)
    )
    await world.put(source, *bodies)
    monkeypatch.setattr(process.kafka, "produce", refuse_one_partition)
    # However slow the machine is, no breaker becomes due for a look meanwhile.
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(process.shared.delivery._breakers, "_clock", lambda: now)
    await process.drain()
    first = tried
    assert len(await world.topic("customer")) == 60 - bad
    await world.put(source, *[event(object_id=f"cus_{number}") for number in range(60)])
    await world.make_due()
    await process.drain()
    assert len(await world.topic("customer")) == 2 * (60 - bad), "its breaker stops no other"
    assert tried == first, "and nothing more was spent on the bad one"
    assert {row["code"] for row in await world.waiting() if row["code"]} == {"kafka_msg_timed_out"}
    assert {row["attempts"] for row in await world.waiting()} == {0}


async def test_an_unknown_topic_waits_until_somebody_makes_it(world: World) -> None:
    source = await world.add_source(resources=("customer", "price"))
    waiting, other = event("price.created", "price_1"), event("customer.created", "cus_1")
    process = world.process(topic_auto_create=False)
    await _make_topic(world, "customer")
    await world.put(source, waiting, other)
    assert await process.drain() == 2
    assert await world.states() == {id_of(waiting): "pending", id_of(other): "delivered"}
    (row,) = await world.waiting()
    assert (row["code"], row["attempts"]) == ("kafka_unknown_topic", 0)
    assert f"{world.prefix}price" in row["error"]
    assert await world.topic("price") == []
    await _make_topic(world, "price")

    async def delivered() -> bool:
        await world.make_due()
        await process.drain()
        return (await world.states())[id_of(waiting)] == "delivered"

    await eventually(delivered)
    assert await world.ids_in("price") == [id_of(waiting)]


async def _make_topic(world: World, name: str) -> None:
    wanted = NewTopic(world.prefix + name, 2)
    (future,) = world.reader._admin.create_topics([wanted]).values()
    await asyncio.to_thread(future.result)


@pytest.mark.usefixtures("needs_apache")  # the embedded broker acknowledges into nowhere
async def test_a_topic_that_is_deleted_under_way_is_made_again(world: World) -> None:
    source = await world.add_source()
    first, second = event(), event()
    await world.put(source, first)
    process = world.process(delivery_timeout_seconds=1.0)
    assert await process.drain() == 1
    (future,) = world.reader._admin.delete_topics([f"{world.prefix}customer"]).values()
    await asyncio.to_thread(future.result)
    (inbox_id,) = await world.put(source, second)

    async def delivered() -> bool:
        await world.make_due()
        await process.drain()
        return await world.state_of(inbox_id) == "delivered"

    await eventually(delivered, deadline=60)
    assert await world.ids_in("customer") == [id_of(second)]
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0


async def test_a_client_that_gets_nothing_through_is_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker answers, and still no record arrives: it may be the client that is stuck."""
    source = await world.add_source()
    process = world.process()
    await world.put(source, event())
    assert await process.drain() == 1
    first = process.kafka._producer
    produce = process.kafka.produce

    def stuck(record: Any, flight: Flight) -> None:
        if process.kafka._producer is not first:
            return produce(record, flight)
        flight.add()
        return flight.refuse(Failure("transient", "kafka_msg_timed_out", "", 0))

    monkeypatch.setattr(process.kafka, "produce", stuck)
    monkeypatch.setattr(process.shared.delivery._breakers, "look", lambda *_: None)
    await world.put(source, event())

    async def delivered() -> bool:
        await world.make_due()
        await process.drain()
        return not await world.queued()

    await eventually(delivered)
    assert len(await world.topic("customer")) == 2


async def test_a_record_that_arrived_nobody_knows_where_is_sent_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing against its partition, so nothing else waits for it."""
    source = await world.add_source()
    process = world.process()
    where: list[Any] = []
    report = Flight._report

    def hide_the_first(self: Flight, place: int, error: Any, message: Any) -> None:
        if not where:
            where.append(message.partition())
            message = SimpleNamespace(partition=message.partition, offset=lambda: -1)
        report(self, place, error, message)

    monkeypatch.setattr(Flight, "_report", hide_the_first)
    body, more = event(), event("customer.updated")
    await world.put(source, body)
    await process.drain()
    (row,) = await world.waiting()
    assert (row["code"], row["attempts"]) == ("kafka_no_offset", 0)
    assert not process.shared.delivery._breakers.concern(f"{world.prefix}customer")
    await world.put(source, more)
    await world.make_due()
    assert await process.drain() == 2
    assert await world.ids_in("customer") == [id_of(body), id_of(body), id_of(more)]
    offsets = await world.fetch('SELECT "offset" FROM relay.deliveries ORDER BY 1')
    assert [row["offset"] for row in offsets] == [1, 2]
