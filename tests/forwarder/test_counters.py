"""What a forwarder counts beside the numbers of ordinary traffic, and how it is shown."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relay.kafka import Failure
from relay.metrics.forwarder import of_forwarder
from relay.metrics.page import _Collected
from tests.forwarder.test_failures import failing_transform
from tests.forwarder.world import Process, World, event, id_of
from tests.metrics.scrape import Page


def page_of(process: Process) -> Page:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(of_forwarder(process.shared)))
    return Page(generate_latest(registry))


async def test_retries_and_the_death_they_end_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.add_source()
    bad = event()
    await world.put(source, bad, event(object_id="cus_2"))
    failing_transform(monkeypatch, ValueError("never"), id_of(bad))
    process = world.process(max_attempts=3)
    for _ in range(3):
        await process.drain()
        await world.make_due()
    page = page_of(process)
    assert page.all("relay_forwarder_retries_total", "code") == {"transform_error": 2}
    assert page.get("relay_forwarder_events_dead_total", code="transform_error") == 1
    assert page.get("relay_forwarder_dead_letter_copies_delivered_total") == 1
    assert page.get("relay_forwarder_events_delivered_total") == 1
    assert page.get("relay_forwarder_records_delivered_total") == 2


async def crash(world: World, process: Process) -> None:
    """A batch that its process does not survive, and ``process`` that takes it over."""
    dying = world.process()

    async def die(*arguments: object) -> None:
        raise SystemError("as if it were killed")

    dying.shared.delivery.send = die  # type: ignore[method-assign]
    dying.shared.delivery.send_alone = die  # type: ignore[method-assign]
    with pytest.raises(SystemError):
        await dying.forwarder.run_once()
    assert dying.shared.counters.batches_lost == 1
    await world.age_notes()
    await process.recovery.run_once()


@pytest.mark.parametrize("dlq", [True, False])
async def test_what_others_left_behind(world: World, dlq: bool) -> None:
    source = await world.add_source(dlq=dlq)
    await world.put(source, event())
    process = world.process()
    for _ in range(4):
        await crash(world, process)
    page = page_of(process)
    assert page.get("relay_forwarder_batches_freed_total") == 4
    assert page.get("relay_forwarder_events_dead_total", code="crashed_worker") == int(dlq)
    assert page.get("relay_forwarder_sources_halted_total") == int(not dlq)
    assert page.get("relay_forwarder_batches_lost_total") == 0


async def test_children_without_an_id(world: World) -> None:
    source = await world.add_source(resources=("invoice",), fan_out=("invoice.lines",))
    lines = {"object": "list", "data": [{"id": "il_1"}, {"amount": 1}, {"amount": 2}]}
    await world.put(source, event("invoice.paid", "in_1", lines=lines))
    process = world.process()
    assert await process.drain() == 1
    page = page_of(process)
    assert page.get("relay_forwarder_children_dropped_total") == 2
    assert page.get("relay_forwarder_records_delivered_total") == 2


async def test_partitions_that_take_nothing(world: World) -> None:
    process = world.process()
    breakers = process.shared.delivery._breakers
    assert page_of(process).get("relay_forwarder_partitions_away") == 0
    for partition in (0, 1):
        breakers.open("customer", partition, Failure("transient", "kafka_x", "away"))
    breakers.open("invoice", -1, Failure("refused", "kafka_y", "not allowed"))
    assert page_of(process).get("relay_forwarder_partitions_away") == 3
    breakers.close("customer", 1)
    assert page_of(process).get("relay_forwarder_partitions_away") == 2
