"""Clients that are slow, broken, too many or too large."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from contextlib import suppress

from tests.acceptance.checker import Posted
from tests.acceptance.sender import Event
from tests.faults.load import make_event, upload
from tests.faults.world import World

_BROKEN = 100
_SLOW = 60
_UPLOAD_BYTES = 49_000_000
_DIFFERENT_UPLOADS = 8


async def slow_clients(world: World, rng: random.Random) -> None:
    """Heads and bodies that come a byte at a time, or not to their end."""
    await asyncio.gather(*[_trickle(world, rng) for _ in range(_SLOW)])


async def broken_clients(world: World, rng: random.Random) -> None:
    """What is no HTTP, what ends in the middle, what nobody signed."""
    for _ in range(_BROKEN):
        await _send(world, rng, rng.choice([_garbage, _cut_off, _unsigned])(world, rng))


async def burst(world: World, rng: random.Random) -> None:
    """Ten times as much as usual."""
    world.load.factor = 10.0
    try:
        await asyncio.sleep(8.0)
    finally:
        world.load.factor = 1.0


async def large_uploads(world: World, rng: random.Random) -> None:
    """All at once, and far more than may be in memory; nobody repeats what is refused.

    Of a few events only, so that the rig itself need not hold them all.
    """
    first = rng.randrange(10**6)
    # To sign so much takes long enough to hold up everything else that the rig does.
    prepared = [
        await asyncio.to_thread(_prepare, world, number)
        for number in range(first, first + _DIFFERENT_UPLOADS)
    ]
    began = time.monotonic()

    async def one(event: Event, request: bytes) -> tuple[str, int, float]:
        port = rng.choice(world.receiver_ports() or [1])
        status = await upload(port, request, seconds=60)
        return event.event_id, status, time.monotonic()

    uploads = [one(*prepared[n % len(prepared)]) for n in range(world.lane.uploads)]
    answers = await asyncio.gather(*uploads)
    accepted = {name: at for name, status, at in answers if status == 200}
    for event, _ in prepared:
        digest = await asyncio.to_thread(_digest, event.body)
        name, answered = event.event_id, accepted.get(event.event_id)
        world.uploaded.append(Posted(name, event.key, digest, began, answered))
    statuses = Counter(str(status or "reset") for _, status, _ in answers)
    world.tell("large uploads were answered", **dict(sorted(statuses.items())))


def _prepare(world: World, number: int) -> tuple[Event, bytes]:
    text = "x" * _UPLOAD_BYTES
    event = make_event("customer.updated", "cus_upload", number, name="upload", description=text)
    return event, world.side.webhook.request(event.body)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


async def _trickle(world: World, rng: random.Random) -> None:
    with suppress(OSError, IndexError):
        _, writer = await asyncio.open_connection("127.0.0.1", rng.choice(world.receiver_ports()))
        request = _unsigned(world, rng)
        try:
            for byte in request[: rng.randrange(1, 80)]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(rng.uniform(0.05, 0.3))
        finally:
            writer.transport.abort()


async def _send(world: World, rng: random.Random, request: bytes) -> None:
    with suppress(OSError, IndexError):
        _, writer = await asyncio.open_connection("127.0.0.1", rng.choice(world.receiver_ports()))
        writer.write(request)
        await asyncio.sleep(rng.uniform(0.0, 0.1))
        writer.transport.abort()


def _garbage(world: World, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 5000))


def _cut_off(world: World, rng: random.Random) -> bytes:
    event = make_event("customer.updated", "cus_broken", rng.randrange(10**6), name="broken")
    request = world.side.webhook.request(event.body)
    return request[: rng.randrange(1, len(request) - 1)]


def _unsigned(world: World, rng: random.Random) -> bytes:
    event = make_event("customer.updated", "cus_broken", rng.randrange(10**6), name="broken")
    return world.side.webhook.request(event.body).replace(b"v1=", b"v1=0")


ATTACKS = {each.__name__: each for each in (slow_clients, broken_clients, burst, large_uploads)}
