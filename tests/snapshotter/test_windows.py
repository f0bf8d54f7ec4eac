"""What lies in the window that was asked for, and where it ends by itself."""

from __future__ import annotations

import itertools

import pytest

from relay.dev.stripe_api import FakeStripe, Fault
from relay.snapshotter import Snapshotter
from tests.snapshotter.world import World

pytestmark = pytest.mark.usefixtures("unlimited")


@pytest.mark.parametrize("resource", ["customer", "payment_method"])
async def test_created_after_and_before(world: World, resource: str) -> None:
    async with FakeStripe({resource: 300}) as fake:
        rows = sorted(fake.resource(resource).rows(), key=lambda row: row.order)
        after, before = rows[100].created, rows[220].created
        config = await world.add_source(fake, resources=(resource,))
        snapshot_id = await world.start(config, created_after=after, created_before=before)
        await world.read(snapshot_id)
        wanted = {row.id for row in rows if after <= row.created < before}
        assert set(await world.inbox()) == wanted


async def test_the_first_page_closes_the_window(world: World) -> None:
    now = [1_780_000_000.0]
    async with FakeStripe({"customer": 150}, clock=lambda: now[0], newest=1_779_000_000) as fake:
        [within] = fake.create("customer", created=1_780_000_000)
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        await Snapshotter(world.process()).run_once()
        now[0] += 100
        later = fake.create("customer", 5)
        found = await world.read(snapshot_id)
        assert found["window_until"].timestamp() == 1_780_000_001
        stored = await world.inbox()
        assert within in stored
        assert not set(later) & stored.keys()


async def test_a_long_window_is_read_from_several_places(world: World) -> None:
    async with FakeStripe({"customer": 2000}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        found = await world.read(snapshot_id, readers=4)
        assert found["objects"] == 2000
        rows = await world.ranges(snapshot_id)
        assert len(rows) > 3
        # They lie beside each other without a gap or an overlap.
        rows.sort(key=lambda row: row["created_until"])
        assert rows[0]["created_from"] is None
        for older, newer in itertools.pairwise(rows):
            assert older["created_until"] == newer["created_from"]


async def test_what_lies_before_all_that_is_known_of_stripe_is_read_too(world: World) -> None:
    async with FakeStripe({"customer": 300}) as fake:
        [ancient] = fake.create("customer", created=1_000_000)
        config = await world.add_source(fake)
        await world.read(await world.start(config), readers=2)
        assert ancient in await world.inbox()


async def test_a_lost_cursor_does_not_widen_the_window(world: World) -> None:
    faults = [Fault("delete_cursor", share=0.8)]
    async with FakeStripe({"customer": 900}, faults=faults) as fake:
        rows = {row.id: row.created for row in fake.resource("customer").rows()}
        after = sorted(rows.values())[300]
        config = await world.add_source(fake)
        snapshot_id = await world.start(config, created_after=after)
        await world.read(snapshot_id)
        stored = (await world.inbox()).keys()
        assert all(rows[each] >= after for each in stored)
        left = {each for each in fake.resource("customer").ids() if rows[each] >= after}
        assert left <= stored
