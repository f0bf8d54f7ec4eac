"""How far a snapshot is, in creation times: what `show` and the bars of `--watch` go by."""

from __future__ import annotations

import pytest

from relay.dev import samples
from relay.dev.stripe_api import FakeStripe
from relay.snapshotter import Snapshotter
from tests.snapshotter.world import World

pytestmark = pytest.mark.usefixtures("unlimited")


async def test_years_without_an_object_count_as_nothing(world: World) -> None:
    """All objects are of three months; the window goes back to when Stripe began."""
    async with FakeStripe({"customer": 3000}, clock=lambda: samples.EPOCH + 60) as fake:
        times = [row.created for row in fake.resource("customer").rows()]
        snapshot_id = await world.start(await world.add_source(fake))
        row = (await world.progress(snapshot_id))["customer"]
        assert (row["read_seconds"], row["unread_seconds"]) == (None, None)
        reader = Snapshotter(world.process())
        while row["objects"] < 1500:
            await reader.run_once()
            row = (await world.progress(snapshot_id))["customer"]
        share = row["read_seconds"] / (row["read_seconds"] + row["unread_seconds"])
        assert share == pytest.approx(row["objects"] / 3000, abs=0.15)
        await world.read(snapshot_id)
        row = (await world.progress(snapshot_id))["customer"]
        assert row["unread_seconds"] == 0
        assert row["read_seconds"] == pytest.approx(max(times) - min(times), rel=0.1)


async def test_a_list_that_cannot_be_asked_by_time_has_none(world: World) -> None:
    async with FakeStripe({"payment_method": 300, "customer": 300}) as fake:
        config = await world.add_source(fake, resources=("payment_method",))
        snapshot_id = await world.start(config)
        by_customer = await world.start(config, per_customer=True)
        reader = Snapshotter(world.process())
        for _ in range(2):
            await reader.run_once()
        row = (await world.progress(snapshot_id))["payment_method"]
        assert row["pages"] == 1
        assert (row["read_seconds"], row["unread_seconds"]) == (None, None)
        # Its customers can be.
        row = (await world.progress(by_customer))["payment_method"]
        assert row["read_seconds"] > 0
