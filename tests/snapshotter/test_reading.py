"""Everything that Stripe lists comes into the inbox, once, as it was listed."""

from __future__ import annotations

import random
from typing import Any

import pytest

from relay.dev.stripe_api import FakeStripe, Fault
from relay.snapshotter import Snapshotter, Upkeep
from relay.store import ranges
from tests.snapshotter.world import World

pytestmark = pytest.mark.usefixtures("unlimited")


@pytest.mark.parametrize("readers", [1, 4])
async def test_all_objects_of_all_resources(world: World, readers: int) -> None:
    counts = {"customer": 950, "charge": 420, "payment_method": 130, "price": 210}
    async with FakeStripe(counts) as fake:
        config = await world.add_source(fake, resources=tuple(counts))
        snapshot_id = await world.start(config)
        found = await world.read(snapshot_id, readers=readers)
        assert found["state"] == "finished"
        assert found["last_error"] is None
        assert found["objects"] == sum(counts.values())
        stored = await world.inbox()
        for resource, count in counts.items():
            assert set(fake.resource(resource).ids()) <= stored.keys()
            assert (await world.progress(snapshot_id))[resource]["objects"] == count
        assert len(stored) == sum(counts.values())


async def test_the_event_of_an_object(world: World) -> None:
    async with FakeStripe({"customer": 3}, clock=lambda: 1_780_000_000.5) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        await world.read(snapshot_id)
        stored = await world.inbox()
        for object_id, event in stored.items():
            assert event["id"] == f"snap_{snapshot_id}_{object_id}"
            assert event["type"] == "customer.snapshot"
            assert event["created"] == 1_780_000_000
            assert event["livemode"] is False
            assert event["api_version"] == "2026-08-26.dahlia"
            assert event["data"]["object"]["id"] == object_id
        [row] = await world.ranges(snapshot_id)
        assert row["created_until"].timestamp() == 1_780_000_001


async def test_canceled_subscriptions_and_inactive_prices(world: World) -> None:
    async with FakeStripe({"subscription": 30, "price": 30}) as fake:
        config = await world.add_source(fake, resources=("subscription", "price"))
        await world.read(await world.start(config))
        events = [each["data"]["object"] for each in (await world.inbox()).values()]
        assert "canceled" in {each.get("status") for each in events}
        assert {each["active"] for each in events if each["object"] == "price"} == {True, False}


async def test_refunds_come_with_their_charges_when_they_are_fanned_out(world: World) -> None:
    async with FakeStripe({"charge": 5}) as fake:
        config = await world.add_source(fake, resources=("charge",), fan_out=("charge.refunds",))
        await world.read(await world.start(config))
        events = (await world.inbox()).values()
        assert all(each["data"]["object"]["refunds"]["object"] == "list" for each in events)


async def test_payment_methods_customer_by_customer(world: World) -> None:
    counts = {"customer": 130, "payment_method": 350}
    async with FakeStripe(counts, required={"payment_method": "customer"}) as fake:
        config = await world.add_source(fake, resources=("payment_method",))
        refused = await world.read(await world.start(config))
        assert refused["state"] == "failed"
        assert "--per-customer" in refused["last_error"]
        snapshot_id = await world.start(config, per_customer=True)
        found = await world.read(snapshot_id, readers=3)
        assert found["state"] == "finished"
        assert set(await world.inbox()) == set(fake.resource("payment_method").ids())


async def test_each_snapshot_has_events_of_its_own(world: World) -> None:
    async with FakeStripe({"customer": 7}) as fake:
        config = await world.add_source(fake)
        first, second = await world.start(config), await world.start(config)
        assert (await world.read(first))["objects"] == 7
        assert (await world.read(second))["objects"] == 7


async def test_three_hundred_objects_in_one_second(world: World) -> None:
    async with FakeStripe({"customer": 50}) as fake:
        created = fake.create("customer", 300, created=1_780_000_000)
        config = await world.add_source(fake)
        await world.read(await world.start(config))
        assert set(created) <= (await world.inbox()).keys()


async def test_what_is_created_and_deleted_meanwhile_leaves_no_gap(world: World) -> None:
    faults = [Fault(kind, share=0.5) for kind in ("create", "delete", "delete_cursor")]
    async with FakeStripe({"customer": 1500, "payment_method": 400}, faults=faults) as fake:
        before = {name: set(fake.resource(name).ids()) for name in ("customer", "payment_method")}
        config = await world.add_source(fake, resources=("customer", "payment_method"))
        found = await world.read(await world.start(config), readers=3)
        assert found["state"] == "finished"
        stored = (await world.inbox()).keys()
        for name, ids in before.items():
            assert fake.resource(name).deleted, "nothing was deleted"
            assert ids & set(fake.resource(name).ids()) <= stored


async def test_readers_that_die_leave_their_ranges_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    real = ranges.step

    async def kill_some(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        if chance.random() < 0.4:
            raise KilledError  # after the page's rows, before the commit

    chance = random.Random(7)
    monkeypatch.setattr(ranges, "step", kill_some)
    async with FakeStripe({"customer": 1200}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        shared = world.process()
        killed = 0
        while (await world.show(snapshot_id))["state"] == "running":
            try:
                await Snapshotter(shared).run_once()
            except KilledError:
                killed += 1
            await Upkeep(shared).run_once()
        assert killed
        found = await world.show(snapshot_id)
        assert found["objects"] == 1200
        assert set(await world.inbox()) == set(fake.resource("customer").ids())
        # A page per death is read again, and none is counted twice.
        assert fake.traffic.requests() == found["pages"] + killed
