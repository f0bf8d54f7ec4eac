"""What Stripe refuses, and what fails for a while."""

from __future__ import annotations

import pytest

from relay.core.errors import ConfigError
from relay.dev.stripe_api import FakeStripe, Fault
from relay.dev.stripe_api.server import LIVE_KEY, TEST_KEY
from relay.snapshotter import Snapshotter
from tests.snapshotter.world import World

pytestmark = pytest.mark.usefixtures("unlimited")


@pytest.mark.parametrize(
    "kind",
    [
        "endpoint-rate",
        "global-rate",
        "global-concurrency",
        "resource-specific",
        "lock_timeout",
        "conflict",
        "error",
        "unavailable",
        "html",
        "dropped",
        "truncated",
        "empty_page",
    ],
)
async def test_a_page_is_asked_for_until_it_comes(world: World, kind: str) -> None:
    async with FakeStripe({"customer": 700}, faults=[Fault(kind, share=0.4)]) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        found = await world.read(snapshot_id, readers=2)
        assert fake.faults.happened[kind]
        assert found["state"] == "finished"
        assert found["objects"] == 700
        assert set(await world.inbox()) == set(fake.resource("customer").ids())


async def test_the_wait_is_shown(world: World) -> None:
    async with FakeStripe({"customer": 10}, faults=[Fault("unavailable", times=3)]) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        await Snapshotter(world.process()).run_once()
        [row] = await world.ranges(snapshot_id)
        assert row["failures"] == 1
        assert "503" in row["wait_reason"]
        assert row["wait_until"] is not None
        assert row["requests"] == 3


async def test_refusals_are_counted(world: World) -> None:
    async with FakeStripe({"customer": 10}, faults=[Fault("endpoint-rate", times=3)]) as fake:
        config = await world.add_source(fake)
        found = await world.read(await world.start(config))
        assert (found["limited"], found["requests"], found["pages"]) == (3, 4, 1)


async def test_a_revoked_key_fails_the_snapshot_and_a_good_one_goes_on(world: World) -> None:
    counts = {"customer": 450, "charge": 450}
    keys = {TEST_KEY: None, "sk_test_second": None}
    async with FakeStripe(counts, keys=keys) as fake:
        config = await world.add_source(fake, resources=tuple(counts))
        snapshot_id = await world.start(config)
        await Snapshotter(world.process()).run_once()
        del keys[TEST_KEY]
        failed = await world.read(snapshot_id)
        assert failed["state"] == "failed"
        assert "Invalid API Key" in failed["last_error"]
        assert TEST_KEY not in failed["last_error"]
        await world.set_key(config, "sk_test_second")
        assert await world.change(snapshot_id, "resume")
        found = await world.read(snapshot_id)
        assert (found["state"], found["objects"], found["last_error"]) == ("finished", 900, None)


async def test_a_missing_permission_fails_its_resource_only(world: World) -> None:
    counts = {"customer": 150, "charge": 150}
    keys = {TEST_KEY: ["customer"]}
    async with FakeStripe(counts, keys=keys) as fake:
        config = await world.add_source(fake, resources=tuple(counts))
        snapshot_id = await world.start(config)
        found = await world.read(snapshot_id)
        assert found["state"] == "failed"
        rows = await world.progress(snapshot_id)
        assert (rows["customer"]["state"], rows["customer"]["objects"]) == ("finished", 150)
        assert rows["charge"]["state"] == "failed"
        assert "permission" in rows["charge"]["last_error"]
        keys[TEST_KEY] = ["customer", "charge"]
        assert await world.change(snapshot_id, "resume")
        found = await world.read(snapshot_id)
        assert (found["state"], found["objects"]) == ("finished", 300)


async def test_an_answer_that_forbids_a_retry_is_obeyed(world: World) -> None:
    async with FakeStripe({"customer": 10}, faults=[Fault("no_retry")]) as fake:
        config = await world.add_source(fake)
        found = await world.read(await world.start(config))
        assert (found["state"], fake.traffic.requests()) == ("failed", 1)


async def test_an_endless_empty_page_fails_visibly(world: World) -> None:
    async with FakeStripe({"customer": 10}, faults=[Fault("empty_page")]) as fake:
        config = await world.add_source(fake)
        found = await world.read(await world.start(config))
        assert found["state"] == "failed"
        assert "has_more" in found["last_error"]


async def test_the_key_is_taken_away_in_the_middle(world: World) -> None:
    async with FakeStripe({"customer": 300}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        await Snapshotter(world.process()).run_once()
        await world.set_key(config, None)
        found = await world.read(snapshot_id)
        assert found["state"] == "failed"
        assert "--stripe-api-key" in found["last_error"]


async def test_the_mode_of_the_key_changes_in_the_middle(world: World) -> None:
    async with FakeStripe({"customer": 300}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        await Snapshotter(world.process()).run_once()
        await world.set_key(config, LIVE_KEY)
        found = await world.read(snapshot_id)
        assert found["state"] == "failed"
        assert "live" in found["last_error"]


@pytest.mark.parametrize(
    ("settings", "key", "resources", "words"),
    [
        ({}, None, (), "has no Stripe key"),
        ({}, "pk_test_51", (), "publishable"),
        ({"mode": "live"}, TEST_KEY, (), "mode"),
        ({}, TEST_KEY, ("charge",), "not in the schema"),
        ({}, TEST_KEY, ("custmer",), "did you mean customer"),
        ({}, TEST_KEY, ("mandate",), "cannot be snapshotted"),
        ({"resources": ("mandate",)}, TEST_KEY, (), "can list none"),
    ],
)
async def test_what_cannot_be_started_says_why(
    world: World,
    settings: dict[str, object],
    key: str | None,
    resources: tuple[str, ...],
    words: str,
) -> None:
    async with FakeStripe({"customer": 1}) as fake:
        config = await world.add_source(fake, **settings)
        await world.set_key(config, key)
        with pytest.raises(ConfigError, match=words):
            await world.start(config, *resources)
