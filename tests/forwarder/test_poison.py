"""A real process that an event ends, again and again, until the event is a dead letter."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tests.forwarder.world import World, event, id_of, ids_of

POISON = "cus_poison"
EXIT_STATUS = 42

# A forwarder process whose transform ends it at once, as a crash in native code would.
FORWARD = f"""
import asyncio, os, sys
import relay.forwarder.delivery as delivery
from relay.app import App
from relay.settings import Address, Settings

transform = delivery.transform

def deadly(event, source):
    if event.object_id == {POISON!r}:
        os._exit({EXIT_STATUS})
    return transform(event, source)

async def main():
    delivery.transform = deadly
    app = App(
        Settings(
            database_url=sys.argv[1],
            kafka_bootstrap_servers=sys.argv[2],
            topic_partitions=3,
            admin_bind=Address("127.0.0.1", 0),
            delivery_timeout_seconds=1.5,
            fence_margin_seconds=1.0,
        ),
        roles=["forwarder"],
    )
    await app.start()
    queued = 1
    while queued:
        await asyncio.sleep(0.05)
        async with app.database.driver() as pg:
            queued = await pg.fetchval("SELECT count(*) FROM relay.queue")
    await app.stop()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_an_event_that_ends_its_process_is_dead_after_three_times_alone(
    world: World, database_url: str
) -> None:
    source = await world.add_source()
    before = [event(object_id=f"cus_{number}") for number in range(20)]
    poison = event("customer.created", POISON)
    behind = event("customer.updated", "cus_behind")
    ids = await world.put(source, *before, poison, behind)
    poison_id = ids[20]

    servers = world.settings.kafka_bootstrap_servers
    assert servers is not None
    ends: list[int] = []
    while len(ends) < 10:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", FORWARD, database_url, servers, stdout=asyncio.subprocess.DEVNULL
        )
        ends.append(await asyncio.wait_for(process.wait(), 60))
        if ends[-1] == 0:
            break
        assert ends[-1] == EXIT_STATUS
    # Once among others, three times alone; the fifth process finds nothing deadly any more.
    assert ends == [EXIT_STATUS] * 4 + [0]
    assert await world.state_of(poison_id) == "dead"
    (letter,) = await world.fetch("SELECT error_code, attempts FROM relay.dead_letters")
    assert (letter["error_code"], letter["attempts"]) == ("crashed_worker", 3)
    states = await world.states()
    assert {states[each] for each in ids_of([*before, behind])} == {"delivered"}
    assert id_of(poison) not in await world.ids_in("customer")
    (copy,) = await world.topic("dead_letter")
    assert copy.value() == poison
    assert await world.notes() == []
