"""What a snapshot has read gives way to live events that are not older than its page."""

from __future__ import annotations

from typing import Any

import pytest

from relay.core.source import SourceConfig
from tests.forwarder.world import World, event

PAGE_AT = 1_780_000_000
"""The second of every event that `event` makes."""


async def _live(world: World, source: SourceConfig, created: int, object_id: str) -> None:
    body = event(object_id=object_id)
    await world.put(source, body.replace(b'"created": %d' % PAGE_AT, b'"created": %d' % created))


@pytest.mark.parametrize(
    ("created", "state"),
    [(PAGE_AT - 1, "delivered"), (PAGE_AT, "skipped"), (PAGE_AT + 9, "skipped")],
)
async def test_the_second_of_the_page_decides(world: World, created: int, state: str) -> None:
    source = await world.add_source()
    [read] = await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await _live(world, source, created, object_id="cus_1")
    await world.process().drain()
    assert await world.state_of(read) == state
    if state == "skipped":
        reason = await world.value("SELECT skip_reason FROM relay.events WHERE id = $1", read)
        assert reason == "superseded"


async def test_only_live_events_of_the_same_object_and_source_count(world: World) -> None:
    source, other = await world.add_source(), await world.add_source("other")
    [read] = await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await _live(world, source, PAGE_AT + 9, object_id="cus_2")
    await _live(world, other, PAGE_AT + 9, object_id="cus_1")
    await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await world.process().drain()
    assert await world.state_of(read) == "delivered"


async def test_it_is_decided_when_it_is_forwarded(world: World) -> None:
    source = await world.add_source()
    process = world.process()
    [early] = await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await process.drain()
    [late] = await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await _live(world, source, PAGE_AT, object_id="cus_1")
    await process.drain()
    assert await world.state_of(early) == "delivered"
    assert await world.state_of(late) == "skipped"


async def test_what_was_received_live_is_never_superseded(world: World) -> None:
    source = await world.add_source()
    [older] = await world.put(source, event(object_id="cus_1"))
    await _live(world, source, PAGE_AT + 9, object_id="cus_1")
    await world.process().drain()
    assert await world.state_of(older) == "delivered"


async def test_an_object_of_another_type_may_have_the_same_id(world: World) -> None:
    source = await world.add_source(resources=("plan", "price"))
    [read] = await world.put(source, event("plan.snapshot", "gold"), origin="snapshot")
    body = event("price.updated", "gold")
    await world.put(source, body)
    await world.process().drain()
    assert await world.state_of(read) == "delivered"


@pytest.mark.parametrize("other", [{"account": "acct_1"}, {"livemode": True}])
async def test_another_account_or_mode_may_have_the_same_id(
    world: World, other: dict[str, Any]
) -> None:
    """Coupons, plans and products have ids of people's own."""
    source = await world.add_source(resources=("coupon",))
    [read] = await world.put(source, event("coupon.snapshot", "GOLD"), origin="snapshot")
    await world.put(source, event("coupon.updated", "GOLD", **other))
    await world.process().drain()
    assert await world.state_of(read) == "delivered"


async def test_who_replays_it_wants_it_sent(world: World) -> None:
    source = await world.add_source()
    [read] = await world.put(source, event("customer.snapshot", "cus_1"), origin="snapshot")
    await _live(world, source, PAGE_AT, object_id="cus_1")
    async with world.database.driver() as pg:
        await pg.execute("UPDATE relay.queue SET replay_id = 'rpl_1' WHERE inbox_id = $1", read)
    await world.process().drain()
    assert await world.state_of(read) == "delivered"
