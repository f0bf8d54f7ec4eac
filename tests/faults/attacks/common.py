"""What several kinds of faults need."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.faults.fleet import Slot
from tests.faults.world import AWAY, World
from tests.support.processes import eventually


class NotHereError(Exception):
    """The machine lacks what the fault takes; the message says what."""


async def choose(world: World, role: str, rng: random.Random) -> Slot:
    """Any process of a role that is at work."""

    def at_work() -> list[Slot]:
        return [slot for slot in world.of_role(role) if slot.is_at_work]

    await eventually(at_work, deadline=60)
    return rng.choice(at_work())


@asynccontextmanager
async def held_up(world: World, table: str) -> AsyncIterator[list[int]]:
    """Nobody can write to a table meanwhile; the backends that wait for that, if any do in time."""
    try:
        pg = await world.postgres.connect()
    except AWAY:
        yield []
        return
    try:
        waiting: list[int] = []
        with suppress(*AWAY):
            await pg.execute(f"BEGIN; LOCK TABLE {table} IN SHARE MODE")

            async def find_waiting() -> bool:
                rows = await pg.fetch(
                    "SELECT pid FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted",
                    table,
                )
                waiting[:] = [row["pid"] for row in rows]
                return bool(waiting)

            await eventually(find_waiting, deadline=3)
        yield waiting
    finally:
        pg.terminate()


async def frozen_long_enough(world: World) -> None:
    """Longer than anybody waits for a frozen process, and until others have ended what it held."""
    await asyncio.sleep(1.5 * world.lane.frozen_seconds + 2.0)
