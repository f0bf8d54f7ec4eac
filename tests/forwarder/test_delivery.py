"""From the inbox to Kafka when nothing goes wrong."""

from __future__ import annotations

import json

import pytest

from relay.core.transform import Deliver, transform
from relay.kafka import partition_of
from relay.store import sources
from tests.forwarder.world import PARTITIONS, World, event, header, id_of, ids_of


async def test_records_are_what_the_transform_makes_and_receipts_say_where(world: World) -> None:
    source = await world.add_source(
        resources=("customer", "invoice"),
        fan_out=("invoice.lines",),
        tombstones=True,
    )
    lines = {
        "object": "list",
        "has_more": True,
        "data": [{"id": "il_1"}, {"id": "il_2", "n": 1.10}],
    }
    bodies = [
        event("customer.created", "cus_1", name="Zoë 🐍", balance=12345678901234567890),
        event("invoice.paid", "in_1", lines=lines, account="acct_1"),
        event("customer.deleted", "cus_1", deleted=True),
        event("payout.paid", "po_1"),
    ]
    ids = await world.put(source, *bodies)
    assert await world.process().drain() == 4

    expected = []
    for inbox_id in ids:
        outcome = transform(await world.stored(inbox_id), source)
        assert isinstance(outcome, Deliver)
        expected += [(inbox_id, place, each) for place, each in enumerate(outcome.records)]
    assert [record.op for _, _, record in expected] == ["c", "u", "u", "u", "d", "d", "u"]
    messages = {
        (message.topic(), message.partition(), message.offset()): message
        for topic in ("customer", "invoice", "invoice_lines", "unknown")
        for message in await world.topic(topic)
    }
    assert len(messages) == len(expected)
    for inbox_id, place, record in expected:
        (receipt,) = await world.fetch(
            "SELECT * FROM relay.deliveries WHERE inbox_id = $1 AND record = $2", inbox_id, place
        )
        where = (receipt["topic"], receipt["partition"], receipt["offset"])
        message = messages.pop(where)
        assert record.topic == message.topic() == receipt["topic"]
        assert record.key == message.key() == receipt["key"].encode()
        assert record.value == message.value()
        assert list(record.headers) == message.headers()
        assert (receipt["op"], receipt["kind"]) == (record.op, "event")
        assert message.partition() == partition_of(record.key, PARTITIONS)
    assert set((await world.states()).values()) == {"delivered"}
    assert await world.queued() == []
    assert await world.notes() == []


async def test_a_tombstone_follows_the_deleted_record(world: World) -> None:
    source = await world.add_source(tombstones=True)
    await world.put(source, event("customer.created"), event("customer.deleted"))
    await world.process().drain()
    created, deleted, tombstone = await world.topic("customer")
    assert header(created, "__op") == "c"
    assert json.loads(deleted.value() or b"")["__deleted"] is True
    assert tombstone.value() is None
    assert tombstone.key() == deleted.key()
    assert header(tombstone, "__op") == "d"


async def test_several_sources_share_a_process_and_not_their_settings(world: World) -> None:
    one = await world.add_source("one", topic_prefix=world.prefix + "1.")
    two = await world.add_source("two", topic_prefix=world.prefix + "2.", metadata=False)
    first, second = event("customer.updated"), event("customer.updated")
    await world.put(one, first)
    await world.put(two, second)
    await world.process().drain()
    (of_one,) = await world.topic("1.customer")
    (of_two,) = await world.topic("2.customer")
    assert header(of_one, "_source") == "one"
    assert header(of_two, "_source") == "two"
    assert json.loads(of_one.value() or b"")["_event_id"] == id_of(first)
    assert "_event_id" not in json.loads(of_two.value() or b"")


async def test_what_is_claimed_after_a_change_of_the_settings_goes_by_the_new_ones(
    world: World,
) -> None:
    source = await world.add_source(resources=("customer",))
    process = world.process()
    before, after = event("customer.created"), event("payout.paid", "po_1")
    await world.put(source, before)
    await process.drain()
    await world.change_source(source, resources=("customer", "payout"))
    await world.put(source, after)
    await process.drain()
    assert await world.ids_in("payout") == [id_of(after)]


@pytest.mark.parametrize(
    ("unselected", "state"), [("DEFAULT_TOPIC", "delivered"), ("SKIP", "skipped"), ("FAIL", "dead")]
)
async def test_a_resource_outside_the_schema(world: World, unselected: str, state: str) -> None:
    source = await world.add_source(
        resources=("customer",), unselected=unselected, default_topic="rest"
    )
    body = event("payout.paid", "po_1")
    (inbox_id,) = await world.put(source, body)
    await world.process().drain()
    assert await world.state_of(inbox_id) == state
    assert await world.ids_in("rest") == ([id_of(body)] if state == "delivered" else [])
    assert await world.topic("payout") == []
    if state == "skipped":
        reason = await world.value("SELECT skip_reason FROM relay.events WHERE id = $1", inbox_id)
        assert reason == "unselected"
    if state == "dead":
        assert await world.value("SELECT error_code FROM relay.dead_letters") == "no_route"


async def test_events_of_the_other_mode_are_skipped(world: World) -> None:
    source = await world.add_source(mode="live")
    live, test = event(livemode=True), event(livemode=False)
    await world.put(source, live, test)
    await world.process().drain()
    assert await world.states() == {id_of(live): "delivered", id_of(test): "skipped"}
    reasons = await world.fetch("SELECT skip_reason FROM relay.events WHERE state = 'skipped'")
    assert [row["skip_reason"] for row in reasons] == ["livemode_mismatch"]
    assert await world.ids_in("customer") == [id_of(live)]


async def test_topics_are_made_with_the_configured_partitions(world: World) -> None:
    source = await world.add_source(resources=("*",))
    await world.put(source, event("price.created", "price_1"), event("plan.created", "plan_1"))
    process = world.process(topic_partitions=5)
    await process.drain()
    for topic in ("price", "plan"):
        assert process.kafka.topics.partition_count(world.prefix + topic) == 5
        assert len(await world.topic(topic)) == 1


async def test_the_order_of_a_key_is_that_of_arrival(world: World) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number % 7}", n=number) for number in range(140)]
    for start in range(0, 140, 20):
        await world.put(source, *bodies[start : start + 20])
    await world.process(batch_rows=30).drain()
    of_key: dict[bytes, list[int]] = {}
    for message in await world.topic("customer"):
        of_key.setdefault(bytes(message.key() or b""), []).append(
            json.loads(message.value() or b"")["n"]
        )
    assert sorted(of_key.values()) == [list(range(first, 140, 7)) for first in range(7)]


async def test_paused_and_halted_sources_are_left_out(world: World) -> None:
    paused = await world.add_source("paused")
    halted = await world.add_source("halted")
    open_source = await world.add_source("open")
    for source in (paused, halted, open_source):
        await world.put(source, event())
    async with world.database.begin() as connection:
        await sources.pause(connection, paused.source_id)
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.source SET halted_at = now(), halted_code = 'no_route', halted_number = 1"
            " WHERE id = $1",
            halted.source_id,
        )
    process = world.process()
    assert await process.drain() == 1
    assert {row.source_id for row in await world.queued()} == {paused.source_id, halted.source_id}
    async with world.database.begin() as connection:
        await sources.resume(connection, paused.source_id)
        await sources.resume(connection, halted.source_id)
    assert await process.drain() == 2
    assert await world.queued() == []


async def test_what_a_deleted_source_still_has_in_line_costs_the_others_nothing(
    world: World,
) -> None:
    gone = await world.add_source("gone")
    # One of every lane, put after the deletion: the receiver knows a source for some seconds.
    await world.put(gone, *[event(object_id=f"cus_{number}") for number in range(400)])
    async with world.database.begin() as connection:
        await sources.delete(connection, gone.source_id)
    source = await world.add_source("here")
    bodies = [event(object_id=f"cus_{number}") for number in range(20)]
    await world.put(source, *bodies)
    process = world.process()
    assert await process.drain() == 20
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies))
