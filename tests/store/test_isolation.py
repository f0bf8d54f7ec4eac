"""On a server whose default is another isolation level than the one that the statements are for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from relay.core.routing import LANES
from relay.janitor import Janitor
from relay.store import deadletters, events, partitions, queue, receipts
from relay.store.engine import Database
from relay.store.receipts import Receipt, Settled
from tests.store.days import past
from tests.store.rows import OPERATOR, bury, letters_of, new_event, row_of, states, store
from tests.support.processes import eventually


@pytest_asyncio.fixture
async def database(database_url: str, direct_url: str) -> AsyncIterator[Database]:
    """In the place of the common one: every connection has the unusual default."""
    pg = await asyncpg.connect(direct_url)
    name = await pg.fetchval("SELECT current_database()")
    await pg.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    await pg.close()
    database = Database(database_url)
    yield database
    await database.close()


async def test_the_default_is_what_it_is_said_to_be(
    database: Database, pg: asyncpg.Connection
) -> None:
    """Only where nothing is stated."""
    told = "SHOW transaction_isolation"
    assert await pg.fetchval(told) == "serializable"
    async with database.begin() as connection:
        assert (await connection.exec_driver_sql(told)).scalar() == "read committed"
    await pg.execute(queue.BEGIN.format(idle_ms=0))
    assert await pg.fetchval(told) == "read committed"
    await pg.execute("ROLLBACK")


async def test_a_skip_sees_what_the_batch_has_settled(
    database: Database, pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    (stored,) = await store(pg, new_event(source_id))
    await pg.execute(queue.BEGIN.format(idle_ms=0))
    await queue.lock_lanes(pg, (0, 0), LANES)

    async def skip() -> int:
        async with database.begin() as connection:
            return await events.skip(connection, [stored], OPERATOR)

    skipping = asyncio.create_task(skip())
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    await eventually(lambda: other.fetchval(waits))
    row = await row_of(pg, stored)
    await receipts.settle(pg, [Settled(row, (Receipt("customer", 0, 1, "{}", "u"),))], None)
    await pg.execute("COMMIT")
    assert await skipping == 0
    assert await states(other, stored) == ["delivered"]


async def test_two_replays_at_once(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    stored = await store(pg, *(new_event(source_id) for _ in range(10)))
    await bury(pg, *stored)
    letters = await letters_of(pg, *stored)

    async def replay() -> int:
        async with database.begin() as connection:
            return len((await deadletters.replay(connection, letters, OPERATOR)).queued)

    assert sum(await asyncio.gather(replay(), replay())) == 10


async def test_housekeeping(database: Database, pg: asyncpg.Connection) -> None:
    await past(pg, 10)
    last = (await partitions.list_partitions(pg))[-1].upper
    counts = await asyncio.gather(
        *(_ahead(database, last) for _ in range(2)), Janitor(database, retention_days=7).run_once()
    )
    assert sorted(counts[:2])[0] == 0
    while await Janitor(database, retention_days=7).run_once():
        pass
    assert await partitions.find_droppable(pg, retention_days=7) == []


async def _ahead(database: Database, now: object) -> int:
    async with database.driver() as pg:
        return await partitions.ensure_ahead(pg, retention_days=7, now=now)  # type: ignore[arg-type]
