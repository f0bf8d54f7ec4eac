"""Ways between two processes that swallow, delay or forget."""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.proxy import Mode
from tests.faults.world import World


async def receiver_database_black_hole(world: World, rng: random.Random) -> None:
    """The server hears nothing more of a receiver, nor the other way round."""
    await _disturb(world, "receiver>", "black_hole", 4.0 + 20 * world.lane.scale)


async def forwarder_database_black_hole(world: World, rng: random.Random) -> None:
    """A cut-off forwarder may still speak to Kafka: for the others it is frozen."""
    try:
        await _disturb(world, "forwarder>one", "black_hole", 2.0 + 1.5 * world.lane.frozen_seconds)
    finally:
        world.thaws.append(time.time())


async def forwarder_kafka_black_hole(world: World, rng: random.Random) -> None:
    """Records may have arrived whose acknowledgement did not."""
    try:
        await _disturb(world, "forwarder>broker", "black_hole", 3.0 + 20 * world.lane.scale)
    finally:
        world.thaws.append(time.time())


async def client_half_open(world: World, rng: random.Random) -> None:
    """Connections whose other end is gone, and nobody says so."""
    await _repeat(world, "client>", "half_open")


async def forwarder_database_half_open(world: World, rng: random.Random) -> None:
    await _repeat(world, f"forwarder>{world.postgres.leader}", "half_open")


async def kafka_half_open(world: World, rng: random.Random) -> None:
    await _repeat(world, f"forwarder>broker-{rng.randrange(3)}", "half_open")


async def pooler_cut(world: World, rng: random.Random) -> None:
    """Every connection of the pooler to its server is reset."""
    await _repeat(world, "bouncer>", "cut")


async def database_latency(world: World, rng: random.Random) -> None:
    await asyncio.gather(
        _disturb(world, "receiver>", "latency", 8.0, rng.uniform(0.02, 0.1)),
        _disturb(world, "snapshotter>", "latency", 8.0, rng.uniform(0.02, 0.1)),
        _disturb(world, "bouncer>", "latency", 8.0, rng.uniform(0.02, 0.1)),
    )


async def kafka_latency(world: World, rng: random.Random) -> None:
    await _disturb(world, "forwarder>broker", "latency", 8.0, rng.uniform(0.02, 0.2))


async def _disturb(world: World, way: str, mode: Mode, seconds: float, value: float = 0.0) -> None:
    """Every way whose name begins so, for a while."""
    try:
        await world.proxies.set_mode(way, mode, value)
        await asyncio.sleep(seconds)
    finally:
        await world.proxies.set_mode(way, "open")


async def _repeat(world: World, way: str, mode: Mode) -> None:
    """What ends connections at once, three times in a row."""
    try:
        for _ in range(3):
            await world.proxies.set_mode(way, mode)
            await asyncio.sleep(1.0)
    finally:
        await world.proxies.set_mode(way, "open")


ATTACKS = {
    each.__name__: each
    for each in (
        receiver_database_black_hole,
        forwarder_database_black_hole,
        forwarder_kafka_black_hole,
        client_half_open,
        forwarder_database_half_open,
        kafka_half_open,
        pooler_cut,
        database_latency,
        kafka_latency,
    )
}
