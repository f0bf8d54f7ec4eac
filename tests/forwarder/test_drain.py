"""SIGTERM: what is in flight is settled, the rest stays in line, and no note is left behind."""

from __future__ import annotations

import msgspec

from relay.app import App
from relay.settings import Address, Settings
from tests.forwarder.world import World, event, ids_of
from tests.support.processes import eventually

COUNT = 3000


def app(world: World, database_url: str) -> App:
    settings: Settings = msgspec.structs.replace(
        world.settings,
        database_url=database_url,
        admin_bind=Address("127.0.0.1", 0),
        batch_rows=20,
    )
    return App(settings, roles=["forwarder"])


async def test_a_drained_process_leaves_nothing_half_done(world: World, database_url: str) -> None:
    source = await world.add_source()
    bodies = [event(object_id=f"cus_{number % 40}") for number in range(COUNT)]
    for start in range(0, COUNT, 500):
        await world.put(source, *bodies[start : start + 500])

    first = app(world, database_url)
    await first.start()
    await eventually(lambda: world.value("SELECT count(*) >= 100 FROM relay.receipt"))
    await first.stop()
    delivered = await world.value("SELECT count(*) FROM relay.deliveries")
    assert 100 <= delivered < COUNT, "stopped in the middle"
    assert await world.notes() == []
    queued = await world.queued()
    assert len(queued) == COUNT - delivered
    assert not any(row.alone or row.attempts for row in queued)
    # All that Kafka has is proved, and the other way round.
    assert len(await world.topic("customer")) == delivered

    second = app(world, database_url)
    await second.start()
    await eventually(lambda: world.value("SELECT count(*) = 0 FROM relay.queue"))
    await second.stop()
    assert sorted(await world.ids_in("customer")) == sorted(ids_of(bodies)), "each of them once"
    assert await world.notes() == []
