"""Processes of relay that die, freeze, have another clock, or are restarted."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from tests.faults.attacks.common import NotHereError, choose, frozen_long_enough, held_up
from tests.faults.fleet import Slot, clock_off_by
from tests.faults.hooks.sitecustomize import MARK
from tests.faults.load import make_event
from tests.faults.world import World
from tests.support.processes import eventually

_PAUSES = 8
_MORE_THAN_A_HEARTBEAT = 2000
_MANY_RECORDS = 10_000
"""Bytes of a request, compressed: so many events have hot objects among them."""
_END_FORWARDERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'relay_test_forwarder'
"""


async def kill_forwarder(world: World, rng: random.Random) -> None:
    """At any moment, or while it waits to settle: its records are in Kafka by then."""
    if rng.random() < 0.5:
        async with held_up(world, "relay.receipt"):
            await _kill(world, "forwarder", rng)
    else:
        await _kill(world, "forwarder", rng)


async def kill_receiver(world: World, rng: random.Random) -> None:
    """At any moment, or while it waits to store: it has requests to answer by then."""
    if rng.random() < 0.5:
        async with held_up(world, "relay.inbox"):
            await _kill(world, "receiver", rng)
    else:
        await _kill(world, "receiver", rng)


async def kill_snapshotter(world: World, rng: random.Random) -> None:
    for _ in range(3):
        await _kill(world, "snapshotter", rng)
        await asyncio.sleep(rng.uniform(0.2, 2.0))


async def freeze_forwarder(world: World, rng: random.Random) -> None:
    """SIGSTOP at any moment, which mostly finds it idle in a transaction, waiting for Kafka."""
    slot = world.slots[rng.choice(["forwarder-1", "forwarder-2"])]
    await _freeze(world, slot)


async def freeze_forwarder_by_socket(world: World, rng: random.Random) -> None:
    """No time-out of TCP helps against one that is connected by a Unix socket."""
    await _freeze(world, world.slots["forwarder-3"])


async def freeze_forwarder_in_statement(world: World, rng: random.Random) -> None:
    """The server is busy with its statement, or waits to be rid of the answer."""
    slot = await choose(world, "forwarder", rng)
    async with held_up(world, "relay.receipt"):
        slot.freeze()
        await asyncio.sleep(0.2)
    await _stay_frozen(world, slot)


async def freeze_forwarder_reading(world: World, rng: random.Random) -> None:
    """In the middle of reading a large body, of which the server still has the rest to send."""
    number = rng.randrange(10**6)
    slot = world.slots["forwarder-1"]
    # Text that does not compress would be too large for the topic.
    text = " ".join(["a long story"] * 600_000)
    event = make_event("customer.updated", "cus_long", number, name="long", description=text)
    try:
        await world.proxies.set_mode("forwarder>one", "bandwidth", 2_000_000)
        await world.proxies.set_mode("forwarder>two", "bandwidth", 2_000_000)
        await world.side.post(event)
        with suppress(TimeoutError):
            await eventually(lambda: _is_sending(world), deadline=5)
        slot.freeze()
    finally:
        await world.proxies.set_mode("forwarder>one", "open")
        await world.proxies.set_mode("forwarder>two", "open")
    await _stay_frozen(world, slot)


async def pause_forwarder_without_database(world: World, rng: random.Random) -> None:
    """Shorter than the fence: what it had on the wire arrives when it goes on.

    Nobody may have overtaken it meanwhile, although its transaction is gone.
    """
    for _ in range(_PAUSES):
        slot = await choose(world, "forwarder", rng)
        began = time.monotonic()
        try:
            if await _keeps_what_it_sends(world, slot, _MORE_THAN_A_HEARTBEAT):
                slot.freeze()
                await world.ask(_END_FORWARDERS)
                await asyncio.sleep(0.4 * world.lane.fence_seconds)
        finally:
            # What is frozen gives nothing up meanwhile, so only others can have been faster.
            await _let_go(world, late=time.monotonic() - began > world.lane.delivery_seconds)
            slot.thaw()
        await asyncio.sleep(0.3)


async def late_records(world: World, rng: random.Random) -> None:
    """The window that remains: what a frozen host has on the wire comes when others have gone on.

    What it sent last is kept on its way until its lanes are in other hands and newer events of the
    same objects have been delivered.
    """
    slot = world.slots[rng.choice(["forwarder-1", "forwarder-2"])]
    world.load.factor = 10.0  # so that there are many, of keys that have newer ones soon
    try:
        # While brokers are away nothing is sent; they may be for a minute or two.
        async with asyncio.timeout(240):
            while not await _keeps_what_it_sends(world, slot, _MANY_RECORDS):
                await _let_go(world, late=True)
        slot.freeze()
        world.load.factor = 1.0
        await frozen_long_enough(world)
    finally:
        world.load.factor = 1.0
        # They are let go first: once it goes on, it would end these connections itself.
        await _let_go(world, late=True)
        await asyncio.sleep(1.0)
        slot.thaw()


async def _keeps_what_it_sends(world: World, slot: Slot, at_least: int) -> bool:
    """Whether a request of so many bytes is on its way now and goes no further: let it go."""
    if not slot.is_at_work:
        await asyncio.sleep(0.5)
        return False
    ports = slot.ports()

    async def sends() -> bool:
        return await world.proxies.hold("forwarder>broker", ports) >= at_least

    with suppress(TimeoutError):
        # It must not have given them up itself.
        await eventually(sends, deadline=0.5 * world.lane.delivery_seconds)
        return True
    return False


async def _let_go(world: World, *, late: bool) -> None:
    """What is kept arrives; ``late``, when others may have sent the same again meanwhile.

    Of a sender that goes on that is so however short it was kept: a record is given up so many
    seconds after it was handed to the client, most of which it may have waited there before it was
    sent. Seen when it was sent again 1.3 s later.
    """
    await world.proxies.hold("forwarder>broker", ())
    if late:
        world.thaws.append(time.time())


async def freeze_receiver(world: World, rng: random.Random) -> None:
    await _freeze(world, await choose(world, "receiver", rng))


async def freeze_snapshotter(world: World, rng: random.Random) -> None:
    await _freeze(world, await choose(world, "snapshotter", rng))


async def clock_ahead(world: World, rng: random.Random) -> None:
    await _other_clock(world, rng, 10)


async def clock_behind(world: World, rng: random.Random) -> None:
    await _other_clock(world, rng, -10)


async def rolling_restart(world: World, rng: random.Random) -> None:
    """One receiver after the other, as a new release is brought out."""
    for slot in world.of_role("receiver"):
        status = await slot.restart()
        assert status in (0, None), f"{slot.name} ended with {status} when it was asked to end"


async def crash_transform(world: World, rng: random.Random) -> None:
    """An event that ends every process that transforms it, until it is a dead letter."""
    number = rng.randrange(10**6)
    event = make_event(
        "customer.updated", f"cus_crash{number}", number, name="crash", description=MARK.decode()
    )
    world.expected_dead[event.event_id] = "crashed_worker"
    await world.side.post(event)
    deadline = 60 + 20 * world.lane.fence_seconds
    await eventually(lambda: world.is_settled(event.event_id), deadline=deadline)


async def _kill(world: World, role: str, rng: random.Random) -> None:
    slot = await choose(world, role, rng)
    world.deaths.append((slot.name, time.time()))
    await slot.kill()


async def _freeze(world: World, slot: Slot) -> None:
    await eventually(lambda: slot.is_at_work, deadline=60)
    slot.freeze()
    await _stay_frozen(world, slot)


async def _stay_frozen(world: World, slot: Slot) -> None:
    try:
        await frozen_long_enough(world)
    finally:
        world.thaws.append(time.time())
        slot.thaw()


async def _is_sending(world: World) -> bool:
    """Whether a server waits for a client to take what it has to send."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'"
    return bool(await world.ask(query))


async def _other_clock(world: World, rng: random.Random, minutes: int) -> None:
    environment = clock_off_by(minutes)
    if environment is None:
        raise NotHereError("libfaketime is not installed (Debian: `faketime`)")
    # Not of a forwarder: libfaketime deceives the clock that librdkafka reads, and not the one by
    # which the kernel ends its waits, which no real clock does.
    slot = world.slots[rng.choice(["receiver-1", "receiver-2", "snapshotter-1"])]
    await slot.restart(**environment)
    try:
        await asyncio.sleep(10)
    finally:
        await slot.restart()


ATTACKS = {
    each.__name__: each
    for each in (
        kill_forwarder,
        kill_receiver,
        kill_snapshotter,
        freeze_forwarder,
        freeze_forwarder_by_socket,
        freeze_forwarder_in_statement,
        freeze_forwarder_reading,
        pause_forwarder_without_database,
        late_records,
        freeze_receiver,
        freeze_snapshotter,
        clock_ahead,
        clock_behind,
        rolling_restart,
        crash_transform,
    )
}
