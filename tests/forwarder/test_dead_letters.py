"""Dead letters: their copies, their replays, and sources that may have none."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.routing import key_of, lane_of
from relay.forwarder import delivery
from relay.kafka import Failure, Flight
from relay.store import deadletters, events, sources
from relay.store.events import Operator
from tests.forwarder.world import World, event, header, id_of

OPERATOR = Operator("test", None)


async def test_an_event_that_can_never_work_is_dead_at_once_with_a_copy(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    dead, good = event("payout.paid", "po_1"), event("customer.updated", "cus_1")
    inbox_id, _ = await world.put(source, dead, good)
    await world.process().drain()
    assert await world.states() == {id_of(dead): "dead", id_of(good): "delivered"}
    (copy,) = await world.topic("dead_letter")
    assert copy.value() == dead
    assert copy.key() == b'{"id":"%s"}' % id_of(dead).encode()
    told = {name: header(copy, name) for name, _ in copy.headers() or []}
    error = told.pop("__error")
    assert told == {
        "__error_code": "no_route",
        "__attempts": "0",
        "_source": "main",
        "_event_id": id_of(dead),
        "_event_type": "payout.paid",
    }
    (letter,) = await world.fetch("SELECT * FROM relay.dead_letters")
    assert (letter["inbox_id"], letter["error_code"], letter["error"]) == (
        inbox_id,
        "no_route",
        error,
    )
    # The copy has a receipt of its own kind, which says nothing about the event.
    (receipt,) = await world.fetch("SELECT * FROM relay.deliveries WHERE inbox_id = $1", inbox_id)
    assert (receipt["kind"], receipt["topic"], receipt["partition"], receipt["offset"]) == (
        "dead_letter",
        world.prefix + "dead_letter",
        copy.partition(),
        copy.offset(),
    )


async def test_a_name_that_is_no_topic_is_a_dead_letter(world: World) -> None:
    source = await world.add_source(resources=("*",))
    body = event("cash money.updated", "x_1")
    (inbox_id,) = await world.put(source, body)
    await world.process().drain()
    assert await world.state_of(inbox_id) == "dead"
    assert await world.value("SELECT error_code FROM relay.dead_letters") == "invalid_topic"
    (copy,) = await world.topic("dead_letter")
    assert copy.value() == body


async def test_without_a_topic_for_copies_the_table_is_all(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL", dlq_topic="")
    (inbox_id,) = await world.put(source, event("payout.paid", "po_1"))
    await world.process().drain()
    assert await world.state_of(inbox_id) == "dead"
    assert await world.queued() == []


async def test_a_copy_whose_topic_was_taken_away_meanwhile_is_dropped(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    (inbox_id,) = await world.put(source, event("payout.paid", "po_1"))
    process = world.process()
    assert await process.forwarder.run_once() == 1
    assert [row.kind for row in await world.queued()] == [1]
    await world.change_source(source, dlq_topic="")
    assert await process.drain() == 1
    assert await world.queued() == []
    assert await world.state_of(inbox_id) == "dead"


@pytest.mark.parametrize("free", ["resume", "retry", "skip"])
async def test_without_a_dead_letter_queue_the_source_halts_and_is_freed(
    world: World, free: str
) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL", dlq=False)
    other = await world.add_source("other", topic_prefix=world.prefix + "o.")
    stuck, beside = event("payout.paid", "po_1"), event("customer.created", "cus_1")
    (inbox_id,) = await world.put(source, stuck)
    process = world.process()
    assert await process.drain() == 0
    (halted,) = await world.fetch("SELECT * FROM relay.source WHERE halted_at IS NOT NULL")
    assert (halted["id"], halted["halted_code"]) == (source.source_id, "no_route")
    assert "payout" in halted["halted_error"]
    # Receiving goes on, and so do other sources; nothing new of this one is claimed.
    await world.put(source, beside)
    await world.put(other, event())
    assert await process.drain() == 1
    assert await world.ids_in("customer") == []
    async with world.database.begin() as connection:
        if free == "resume":
            await sources.resume(connection, source.source_id)
        elif free == "retry":
            assert await events.retry(connection, [inbox_id], OPERATOR) == 1
        else:
            assert await events.skip(connection, [inbox_id], OPERATOR) == 1
    if free == "skip":
        assert await process.drain() == 1
        assert await world.state_of(inbox_id) == "skipped"
        assert await world.ids_in("customer") == [id_of(beside)]
    else:
        # It is tried again, and as nothing has changed, it halts again.
        await process.drain()
        assert await world.value("SELECT count(*) FROM relay.source WHERE halted_at IS NOT NULL")
        await world.change_source(source, unselected="SKIP")
        async with world.database.begin() as connection:
            await sources.resume(connection, source.source_id)
        await process.drain()
        assert await world.state_of(inbox_id) == "skipped"
        assert await world.ids_in("customer") == [id_of(beside)]


def in_another_lane_than(object_id: str) -> str:
    lane, _ = lane_of(key_of(object_id))
    return next(each for number in range(64) if lane_of(key_of(each := f"po_{number}"))[0] != lane)


async def test_what_was_in_flight_when_its_source_halted_is_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL", dlq=False)
    await world.put(source, event("customer.created", "cus_1"))
    slow, halting = world.process(), world.process()
    send = delivery.Delivery.send

    async def halt_meanwhile(self: delivery.Delivery, *arguments: Any) -> None:
        monkeypatch.setattr(delivery.Delivery, "send", send)
        await send(self, *arguments)
        await world.put(source, event("payout.paid", "po_2"))  # in another lane than cus_1
        assert await halting.drain() == 0
        assert await world.value("SELECT halted_code FROM relay.source") == "no_route"

    monkeypatch.setattr(delivery.Delivery, "send", halt_meanwhile)
    assert await slow.forwarder.run_once() == 1
    assert len(await world.topic("customer")) == 1


async def test_replayed_it_is_sent_again_and_says_so(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    dead, newer = event("payout.paid", "po_1"), event("customer.updated", "cus_1")
    inbox_id, _ = await world.put(source, dead, newer)
    process = world.process()
    await process.drain()
    (letter,) = await world.fetch("SELECT id FROM relay.dead_letters")
    await world.change_source(source, resources=("customer", "payout"))
    async with world.database.begin() as connection:
        replay = await deadletters.replay(connection, [letter["id"]], OPERATOR)
    assert replay.queued == (letter["id"],)
    assert await world.state_of(inbox_id) == "pending"
    assert await process.drain() == 1
    assert await world.state_of(inbox_id) == "delivered"
    (message,) = await world.topic("payout")
    assert header(message, "_replay_id") == replay.replay_id
    (receipt,) = await world.fetch(
        "SELECT * FROM relay.deliveries WHERE inbox_id = $1 AND kind = 'event'", inbox_id
    )
    assert receipt["replay_id"] == replay.replay_id
    (closed,) = await world.fetch("SELECT * FROM relay.dead_letters")
    assert closed["replayed_at"] is not None


async def test_a_replay_that_fails_again_is_another_dead_letter(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    (inbox_id,) = await world.put(source, event("payout.paid", "po_1"))
    process = world.process()
    for number in range(1, 4):
        await process.drain()
        letters = await world.fetch("SELECT * FROM relay.dead_letters ORDER BY id")
        assert len(letters) == number
        assert len(await world.topic("dead_letter")) == number
        async with world.database.begin() as connection:
            await deadletters.replay(connection, [letters[-1]["id"]], OPERATOR)
        assert await world.state_of(inbox_id) == "pending"


async def test_a_copy_never_changes_the_state_of_its_event(world: World) -> None:
    """Not even when it is sent after the event was replayed and delivered."""
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    (inbox_id,) = await world.put(source, event("payout.paid", "po_1"))
    process = world.process()
    assert await process.forwarder.run_once() == 1
    async with world.database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue SET visible_at = now() + interval '1 h' WHERE kind = 1"
        )
    await world.change_source(source, unselected="DEFAULT_TOPIC")
    async with world.database.begin() as connection:
        letter = await world.value("SELECT id FROM relay.dead_letters")
        await deadletters.replay(connection, [letter], OPERATOR)
    assert await process.drain() == 1
    assert await world.state_of(inbox_id) == "delivered"
    await world.make_due()
    assert await process.drain() == 1
    assert await world.state_of(inbox_id) == "delivered"
    (copy,) = await world.topic("dead_letter")
    assert header(copy, "__error_code") == "no_route"


async def test_a_discarded_dead_letter_is_skipped_and_its_copy_still_goes(world: World) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    (inbox_id,) = await world.put(source, event("payout.paid", "po_1"))
    process = world.process()
    assert await process.forwarder.run_once() == 1
    async with world.database.begin() as connection:
        letter = await world.value("SELECT id FROM relay.dead_letters")
        assert await deadletters.discard(connection, [letter], OPERATOR) == 1
    assert await world.state_of(inbox_id) == "skipped"
    assert await process.drain() == 1
    assert await world.state_of(inbox_id) == "skipped"
    assert len(await world.topic("dead_letter")) == 1


async def test_a_copy_that_is_too_large_is_cut_until_it_fits(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source(resources=("customer",), unselected="FAIL")
    body = event("payout.paid", "po_1", note="ü" * 20_000)
    await world.put(source, body)
    process = world.process()
    produce = process.kafka.produce

    def refuse_large(record: Any, flight: Flight) -> None:
        if len(record.value or b"") > 10_000:
            flight.add()
            flight.refuse(Failure("too_large", "kafka_msg_size_too_large", ""))
        else:
            produce(record, flight)

    monkeypatch.setattr(process.kafka, "produce", refuse_large)
    await process.drain()
    (copy,) = await world.topic("dead_letter")
    assert header(copy, "__truncated") == "true"
    value = copy.value() or b""
    assert body.startswith(value)
    assert 2_000 < len(value) <= 10_000
    value.decode()
    assert await world.queued() == []
