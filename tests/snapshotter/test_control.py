"""Pausing, resuming, cancelling; making way for live events; the shared rate."""

from __future__ import annotations

import asyncio

import asyncpg
import msgspec
import pytest
from sqlalchemy import text

from relay.core.errors import ConfigError
from relay.dev.stripe_api import FakeStripe, Fault, Limits
from relay.snapshotter import Snapshotter, Upkeep
from relay.store import ranges, rates
from relay.store.engine import Database
from tests.snapshotter.world import World


@pytest.mark.usefixtures("unlimited")
async def test_a_paused_snapshot_asks_for_nothing_and_resumes_where_it_stood(world: World) -> None:
    async with FakeStripe({"customer": 900}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        reader = Snapshotter(world.process())
        for _ in range(3):
            await reader.run_once()
        assert await world.change(snapshot_id, "pause")
        assert not await world.change(snapshot_id, "pause")
        asked = fake.traffic.requests()
        assert await reader.run_once() == 0
        assert fake.traffic.requests() == asked
        assert (await world.progress(snapshot_id))["customer"]["state"] == "paused"
        assert await world.change(snapshot_id, "resume")
        found = await world.read(snapshot_id)
        assert found["objects"] == 900
        assert fake.traffic.requests() == found["pages"]


@pytest.mark.usefixtures("unlimited")
async def test_a_cancelled_snapshot_keeps_what_it_has_read(world: World) -> None:
    async with FakeStripe({"customer": 900}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        reader = Snapshotter(world.process())
        await reader.run_once()
        assert await world.change(snapshot_id, "cancel")
        assert await reader.run_once() == 0
        found = await world.show(snapshot_id)
        assert (found["state"], found["objects"]) == ("cancelled", 100)
        assert found["finished_at"] is not None
        assert len(await world.inbox()) == 100
        assert not await world.change(snapshot_id, "resume")


async def test_a_pause_waits_for_the_page_in_hand(world: World, database: Database) -> None:
    async with FakeStripe({"customer": 900}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        async with database.driver() as pg:
            await world.hold(pg, snapshot_id)
            pausing = asyncio.create_task(world.change(snapshot_id, "pause"))
            done, _ = await asyncio.wait({pausing}, timeout=0.2)
            assert not done
            await pg.execute("ROLLBACK")
        assert await pausing


async def test_a_range_that_is_split_off_meanwhile_is_cancelled_too(
    world: World, database: Database
) -> None:
    async with FakeStripe({"customer": 900}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        async with database.driver() as pg:
            claimed = await world.hold(pg, snapshot_id)
            cancelling = asyncio.create_task(world.change(snapshot_id, "cancel"))
            done, _ = await asyncio.wait({cancelling}, timeout=0.2)
            assert not done
            assert await ranges.add_reader(pg, claimed, claimed.at, 4)
            await pg.execute("COMMIT")
        assert await cancelling
        assert {row["state"] for row in await world.ranges(snapshot_id)} == {"cancelled"}


async def test_nothing_is_split_off_while_the_snapshot_is_changed(
    world: World, database: Database
) -> None:
    async with FakeStripe({"customer": 900}) as fake:
        snapshot_id = await world.start(await world.add_source(fake))
        async with database.driver() as pg, database.begin() as connection:
            claimed = await world.hold(pg, snapshot_id)
            await connection.execute(
                text("UPDATE relay.snapshot SET state = 'paused' WHERE id = :id"),
                {"id": snapshot_id},
            )
            assert not await ranges.add_reader(pg, claimed, claimed.at, 4)
            await pg.execute("ROLLBACK")


async def test_an_unknown_snapshot_is_named(world: World) -> None:
    with pytest.raises(ConfigError, match="no snapshot 'abc'"):
        await world.change("abc", "pause")


@pytest.mark.usefixtures("unlimited")
async def test_fetching_pauses_while_the_queue_is_full(world: World, database: Database) -> None:
    world.settings = msgspec.structs.replace(world.settings, snapshot_queue_rows=150)
    async with FakeStripe({"customer": 900}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        reader = Snapshotter(world.process())
        while await reader.run_once() or (await world.show(snapshot_id))["objects"] < 200:
            reader = Snapshotter(world.process())
        asked = fake.traffic.requests()
        assert await Snapshotter(world.process()).run_once() == 0
        assert fake.traffic.requests() == asked
        # What no forwarder could take does not count.
        async with database.driver() as pg:
            await pg.execute("UPDATE relay.source SET paused_at = now()")
        assert await Snapshotter(world.process()).run_once() == 1
        assert fake.traffic.requests() == asked + 1


async def test_parked_rows_and_those_behind_them_do_not_count(
    world: World, database: Database
) -> None:
    async with FakeStripe({"customer": 100}) as fake:
        config = await world.add_source(fake)
        await world.read(await world.start(config))
        async with database.driver() as pg:
            assert await ranges.has_claimable_work(pg, 99)
            assert not await ranges.has_claimable_work(pg, 100)
            await pg.execute(
                "UPDATE relay.queue SET visible_at = now() + interval '1 hour'"
                " WHERE number IN (SELECT number FROM relay.queue ORDER BY number LIMIT 10)"
            )
            assert await ranges.has_claimable_work(pg, 89)
            assert not await ranges.has_claimable_work(pg, 90)
            # One line: all stand behind those that are parked.
            await pg.execute("UPDATE relay.queue SET lane = 0, key_hash = 0")
            assert not await ranges.has_claimable_work(pg, 0)


async def test_processes_share_the_rate(world: World) -> None:
    # Far below what 12 readers would ask without it, on a slow machine too.
    world.settings = msgspec.structs.replace(world.settings, stripe_rate_share=0.2)
    async with FakeStripe({"customer": 800, "charge": 800}, limits=Limits(8, 8)) as fake:
        config = await world.add_source(fake, resources=("customer", "charge"))
        snapshot_id = await world.start(config)
        await asyncio.gather(*[world.read(snapshot_id, readers=4) for _ in range(3)])
        assert (await world.show(snapshot_id))["objects"] == 1600
        assert fake.traffic.peak() <= 8
        assert not fake.traffic.statuses[429]


async def test_a_refusal_slows_down_and_it_comes_back(database: Database) -> None:
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", ["/v1/charges"])
        wanted = {rates.ALL_ENDPOINTS: 10.0, "/v1/charges": 10.0}

        async def gap() -> float:
            await rates.reserve(pg, "acct", wanted, 100.0)
            first = await rates.reserve(pg, "acct", wanted, 100.0)
            return await rates.reserve(pg, "acct", wanted, 100.0) - first

        assert await gap() == pytest.approx(0.1, abs=0.05)
        await rates.slow_down(pg, "acct", "/v1/charges")
        await rates.slow_down(pg, "acct", "/v1/charges")  # within the second: the same news
        assert await gap() == pytest.approx(0.1 / 0.7, abs=0.05)
        await pg.execute("UPDATE relay.api_rate SET slowed_at = now() - interval '1 minute'")
        assert await gap() == pytest.approx(0.1, abs=0.05)


async def test_a_late_turn_moves_no_clock(database: Database) -> None:
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", ["/v1/charges"])
        wanted = {rates.ALL_ENDPOINTS: 0.1, "/v1/charges": 0.1}
        assert await rates.reserve(pg, "acct", wanted, 1.0) == 0
        late = await rates.reserve(pg, "acct", wanted, 1.0)
        assert late > 5
        assert await rates.reserve(pg, "acct", wanted, 1.0) <= late


async def test_upkeep_closes_what_nobody_has_closed(world: World, database: Database) -> None:
    async with FakeStripe({"customer": 1}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        async with database.driver() as pg:
            await pg.execute("UPDATE relay.snapshot_range SET state = 'finished'")
        assert await Upkeep(world.process()).run_once() == 1
        assert (await world.show(snapshot_id))["state"] == "finished"


async def test_a_frozen_reader_is_ended_and_its_range_read_on(
    world: World, database: Database
) -> None:
    async with FakeStripe({"customer": 30}) as fake:
        config = await world.add_source(fake)
        snapshot_id = await world.start(config)
        async with database.driver() as frozen:
            await world.hold(frozen, snapshot_id, idle_ms=0)
            assert await Snapshotter(world.process()).run_once() == 0
            assert await Upkeep(world.process()).run_once() == 0
            world.settings = msgspec.structs.replace(world.settings, frozen_after_seconds=0.01)
            await asyncio.sleep(0.1)
            assert await Upkeep(world.process()).run_once() == 1
            with pytest.raises(
                (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
            ):
                await frozen.execute("COMMIT")
            await frozen.close()
        world.settings = msgspec.structs.replace(world.settings, frozen_after_seconds=30.0)
        found = await world.read(snapshot_id)
        assert (found["state"], found["objects"]) == ("finished", 30)


@pytest.mark.usefixtures("unlimited")
async def test_one_connection_to_the_database_is_enough(
    world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds one does not wait for another: behind a pooler all may be held likewise."""
    monkeypatch.setattr("relay.store.engine.MAX_OVERFLOW", 0)
    monkeypatch.setattr("relay.snapshotter.turns.LONGEST_TURN_SECONDS", 0.1)
    world.database = only = Database(database_url, pool_size=1)
    faults = [Fault("endpoint-rate", times=3), Fault("error", times=3)]
    async with FakeStripe({"customer": 500, "charge": 500}, faults=faults) as fake:
        config = await world.add_source(fake, resources=("customer", "charge"))
        try:
            found = await world.read(await world.start(config), readers=4)
        finally:
            await only.close()
        assert (found["state"], found["objects"]) == ("finished", 1000)
        assert found["limited"] == fake.faults.happened["endpoint-rate"] == 3
        assert fake.faults.happened["error"] == 3


async def test_the_rate_is_kept_where_transactions_are_serializable_by_default(
    database: Database, direct_url: str
) -> None:
    pg = await asyncpg.connect(direct_url)
    name = await pg.fetchval("SELECT current_database()")
    await pg.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    await pg.close()
    async with database.driver() as pg:
        await rates.prepare(pg, "acct", ["/v1/charges"])
    wanted = {rates.ALL_ENDPOINTS: 1e6, "/v1/charges": 1e6}

    async def ask_often() -> None:
        for _ in range(50):
            async with database.driver() as pg:
                await rates.reserve(pg, "acct", wanted, 1.0)
                await rates.slow_down(pg, "acct", "/v1/charges")

    await asyncio.gather(*[ask_often() for _ in range(8)])
