"""Ways between two processes that swallow, delay or forget: every pair, in every manner."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tests.faults.proxy import Mode
from tests.faults.world import World

PAIRS: Final[Mapping[str, Sequence[str]]] = {
    "client_receiver": ("client>",),
    "receiver_database": ("receiver>",),
    "forwarder_database": ("forwarder>one", "forwarder>two"),
    "forwarder_kafka": ("forwarder>broker",),
    "snapshotter_database": ("snapshotter>one", "snapshotter>two"),
    "snapshotter_stripe": ("snapshotter>stripe",),
    "pooler_database": ("bouncer>",),
}
"""Who speaks to whom, and how the ways between the two begin."""

FORWARDING: Final = frozenset({"forwarder_database", "forwarder_kafka", "pooler_database"})
"""Where a disturbance can make a forwarder send a record again."""

_LATENCY_SECONDS = 5.0


async def black_hole(world: World, rng: random.Random, pair: str) -> None:
    """Neither side hears anything more of the other.

    A forwarder without its database may still speak to Kafka: for the others it is frozen. Without
    Kafka, records may have arrived whose acknowledgement did not.
    """
    seconds = 4.0 + 20.0 * world.lane.scale
    if pair == "forwarder_database":
        seconds = 2.0 + 1.5 * world.lane.frozen_seconds
    try:
        await _set_mode(world, pair, "black_hole")
        await asyncio.sleep(seconds)
    finally:
        await _set_mode(world, pair, "open")
        if pair in FORWARDING:
            world.thaws.append(time.time())


async def latency(world: World, rng: random.Random, pair: str) -> None:
    try:
        await _set_mode(world, pair, "latency", rng.uniform(0.02, 0.1))
        await asyncio.sleep(_LATENCY_SECONDS)
    finally:
        await _set_mode(world, pair, "open")


async def half_open(world: World, rng: random.Random, pair: str) -> None:
    """Connections whose other end is gone, and nobody says so; three times in a row."""
    try:
        for _ in range(3):
            await _set_mode(world, pair, "half_open")
            await asyncio.sleep(1.0)
    finally:
        await _set_mode(world, pair, "open")


async def reset(world: World, rng: random.Random, pair: str) -> None:
    """Connections are cut, and both sides hear of it."""
    for _ in range(3):
        await _set_mode(world, pair, "cut")
        await asyncio.sleep(1.0)


async def _set_mode(world: World, pair: str, mode: Mode, value: float = 0.0) -> None:
    for way in PAIRS[pair]:
        await world.proxies.set_mode(way, mode, value)


def _attack(
    how: Callable[[World, random.Random, str], Awaitable[None]], pair: str
) -> Callable[[World, random.Random], Awaitable[None]]:
    async def attack(world: World, rng: random.Random) -> None:
        await how(world, rng, pair)

    return attack


ATTACKS = {
    f"{pair}_{how.__name__}": _attack(how, pair)
    for pair in PAIRS
    for how in (black_hole, latency, half_open, reset)
}
