"""Facts about the server, looked at while they are bad."""

from __future__ import annotations

import time

import asyncpg
import pytest

from relay.store import vitals
from relay.store.engine import Database
from tests.store.rows import new_event, store
from tests.support.processes import eventually


async def _oldest(database: Database) -> float | None:
    # Each time in a transaction of its own: within one the server's statistics stand still.
    async with database.begin() as connection:
        return await vitals.oldest_transaction_seconds(connection)


async def test_an_old_snapshot_is_what_vacuum_waits_for(
    database: Database, pg: asyncpg.Connection
) -> None:
    assert await _oldest(database) is None
    async with pg.transaction(isolation="repeatable_read"):
        await pg.execute("SELECT FROM relay.source")
        held = await _oldest(database)
        later = await _oldest(database)
        assert held is not None
        assert later is not None
        assert 0 < held < later
    assert await _oldest(database) is None


async def test_a_transaction_that_wrote_counts_between_its_statements(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    async with pg.transaction(isolation="read_committed"):
        await pg.execute("SELECT FROM relay.source")
        # It is open, and vacuum need not wait for it.
        assert await _oldest(database) is None
        await pg.execute("UPDATE relay.source SET tolerance = 1 WHERE id = $1", source_id)
        assert await _oldest(database) is not None


async def test_other_databases_are_not_ours(database: Database, empty_database_url: str) -> None:
    stranger = await asyncpg.connect(empty_database_url)
    try:
        async with stranger.transaction(isolation="repeatable_read"):
            await stranger.execute("SELECT FROM pg_class")
            assert await _oldest(database) is None
    finally:
        await stranger.close()


async def test_dead_rows_are_counted_by_table(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    async with database.begin() as connection:
        assert await vitals.dead_tuples(connection) == dict.fromkeys(vitals.HOT_TABLES, 0)
    await store(pg, new_event(source_id), new_event(source_id))
    await pg.execute("DELETE FROM relay.queue")
    await pg.execute("SELECT pg_stat_force_next_flush()")

    async def counted() -> bool:
        async with database.begin() as connection:
            return (await vitals.dead_tuples(connection))["queue"] == 2

    await eventually(counted)


@pytest.mark.parametrize("ahead", [-3600.0, 0.0, 12.5])
async def test_the_clock_is_compared_with_ours(
    database: Database, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    ours = time.time
    async with database.begin() as connection:
        monkeypatch.setattr(time, "time", lambda: ours() - ahead)
        offset = await vitals.clock_offset_seconds(connection)
    assert offset == pytest.approx(ahead, abs=1)
