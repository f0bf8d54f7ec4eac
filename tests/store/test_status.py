"""The numbers of `relay status`."""

from __future__ import annotations

import asyncpg
import pytest

from relay.store import partitions, queue, sources, status
from relay.store.engine import Database
from relay.store.queue import Parking
from tests.store.rows import bury, fail, new_event, row_of, store


async def test_lag_is_counted_by_source(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    async with database.begin() as connection:
        (lag,) = await status.lag(connection)
    # A dash, where there is nothing that could be old.
    assert (lag["pending"], lag["dead"], lag["oldest_pending_seconds"]) == (0, 0, None)
    _, two, three, four = await store(pg, *(new_event(source_id) for _ in range(4)))
    await fail(pg, two)
    await bury(pg, three, copy=True)
    row = await row_of(pg, four)
    await queue.halt(pg, row, "no_route", "why")
    async with database.begin() as connection:
        (lag,) = await status.lag(connection)
        await sources.pause(connection, source_id)
    assert (lag["source"], lag["insecure"]) == ("shop", True)
    assert (lag["pending"], lag["retrying"], lag["dead"]) == (2, 1, 1)
    assert lag["oldest_pending_seconds"] > 0
    assert (lag["halted_code"], lag["paused_at"]) == ("no_route", None)


async def test_deleted_sources_are_left_out(database: Database, source_id: int) -> None:
    async with database.begin() as connection:
        await sources.delete(connection, source_id)
        assert await status.lag(connection) == []


async def test_reasons_are_counted(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    one, two, three, _ = await store(pg, *(new_event(source_id) for _ in range(4)))
    for each, code in ((one, "kafka_away"), (two, "kafka_away"), (three, "transform_error")):
        await queue.park(pg, [Parking(await row_of(pg, each), 5.0, code, "why", 1)])
    async with database.begin() as connection:
        reasons = await status.waiting_reasons(connection)
    assert [(row["source"], row["code"], row["events"], row["error"]) for row in reasons] == [
        ("shop", "kafka_away", 2, "why"),
        ("shop", "transform_error", 1, "why"),
    ]


@pytest.mark.parametrize("style", ["ISO", "SQL, DMY", "German", "Postgres, MDY"])
async def test_partitions_ahead_whatever_the_style_of_dates(database: Database, style: str) -> None:
    async with database.begin() as connection:
        await connection.exec_driver_sql(f"SET LOCAL datestyle = '{style}'")
        days = await status.partitions_ahead_days(connection)
    assert days is not None
    assert 60 < days <= 91


async def test_no_partitions_are_told_apart_from_few(
    database: Database, pg: asyncpg.Connection
) -> None:
    for each in await partitions.list_partitions(pg):
        await pg.execute(f"DROP TABLE relay.inbox_{each.suffix}")
    async with database.begin() as connection:
        assert await status.partitions_ahead_days(connection) is None
