"""Housekeeping: everything that is due, once, by one of however many do it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import pytest
import pytest_asyncio
import structlog

from relay.core.source import SourceConfig
from relay.janitor import Janitor
from relay.store import inbox, partitions, sources
from relay.store.engine import Database
from tests.store.days import DAY, past, queue_at, store_at
from tests.store.rows import bury, new_event, put, states, store
from tests.support.logins import as_login


async def add_source(database: Database, name: str) -> int:
    config = SourceConfig(source_id=0, public_id="", name=name, insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id


@pytest_asyncio.fixture(autouse=True)
async def source_id(database: Database) -> int:
    return await add_source(database, "shop")


async def test_a_house_in_order_is_left_alone(database: Database) -> None:
    janitor = Janitor(database, retention_days=0)
    assert await janitor.run_once() == 0
    assert await janitor.run_once() == 0


async def test_all_that_is_due_and_then_nothing(
    database: Database, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "REFUSED_SAMPLES_PER_SOURCE", 1)
    async with database.driver() as pg:
        old = await past(pg, 40)
        now: datetime = await pg.fetchval("SELECT now()")
        for age in (0.1, 6.9, 20, 39):
            await store_at(pg, now - age * DAY)
        for _ in range(3):
            await inbox.keep_refused(pg, source_id, "signature_wrong", "", b"")
    due = [each for each in old if each.upper <= now - 7 * DAY]
    janitor = Janitor(database, retention_days=7)
    # Partitions, one key that is older than 35 days, two samples.
    assert await janitor.run_once() == len(due) + 1 + 2
    assert await janitor.run_once() == 0
    async with database.driver() as pg:
        left = await partitions.list_partitions(pg)
        assert [each for each in old if each not in due] == [
            each for each in left if each.upper <= old[-1].upper
        ]
        assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == 2
        assert await pg.fetchval("SELECT count(*) FROM relay.event_key") == 3


async def test_without_a_retention_everything_is_kept(database: Database) -> None:
    async with database.driver() as pg:
        old = await past(pg, 40)
        await store_at(pg, old[0].lower)
    janitor = Janitor(database, retention_days=0)
    assert await janitor.run_once() == 0
    async with database.driver() as pg:
        assert set(old) <= set(await partitions.list_partitions(pg))
        assert await pg.fetchval("SELECT count(*) FROM relay.event_key") == 1


async def test_what_is_unfinished_holds_only_its_own_partition(database: Database) -> None:
    async with database.driver() as pg:
        old = await past(pg, 12)
        held = old[1]
        await store_at(pg, held.lower, settled=False)
    janitor = Janitor(database, retention_days=7)
    assert await janitor.run_once() == 4
    async with database.driver() as pg:
        assert held in await partitions.list_partitions(pg)
        assert len(set(old) & set(await partitions.list_partitions(pg))) == 8
        await pg.execute("DELETE FROM relay.queue")
    assert await janitor.run_once() == 1


async def test_partitions_come_first(database: Database) -> None:
    """Made in the same round, however long nobody has kept house."""
    async with database.driver() as pg:
        for each in await partitions.list_partitions(pg):
            await pg.execute(
                f"DROP TABLE relay.inbox_{each.suffix}; DROP TABLE relay.receipt_{each.suffix}"
            )
    assert await Janitor(database, retention_days=7).run_once() == 3
    async with database.driver() as pg:
        assert await put(pg, new_event(1)) == [True]


async def test_an_interrupted_drop_is_completed(database: Database) -> None:
    async with database.driver() as pg:
        old = await past(pg, 8)
        mark = f"{partitions._DROP_MARK} {old[0].lower.isoformat()} {old[0].upper.isoformat()}"
        await pg.execute(f"COMMENT ON TABLE relay.inbox_{old[0].suffix} IS '{mark}'")
        await pg.execute(
            f"ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_{old[0].suffix} CONCURRENTLY"
        )
    janitor = Janitor(database, retention_days=7)
    assert await janitor.run_once() == 1
    assert await janitor.run_once() == 0


async def test_a_transaction_that_does_not_end_costs_one_try_a_round(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more than that: partitions are still made and samples still pruned."""
    monkeypatch.setattr(partitions, "DETACH_SECONDS", 0.3)
    tries: list[str] = []
    drop = partitions.drop

    async def remember(pg: asyncpg.Connection, partition: partitions.Partition) -> bool:
        tries.append(partition.suffix)
        return await drop(pg, partition)

    monkeypatch.setattr(partitions, "drop", remember)
    async with database.driver() as forgotten:
        old = await past(forgotten, 12)
        await forgotten.execute("BEGIN; SELECT FROM relay.inbox")
        janitor = Janitor(database, retention_days=7)
        assert await janitor.run_once() == 0
        assert await janitor.run_once() == 0
        assert tries == [old[0].suffix]
        await forgotten.execute("ROLLBACK")
    assert await janitor.run_once() == 5
    assert await janitor.run_once() == 0


async def test_one_at_a_time(database: Database, database_url: str) -> None:
    """Of several processes one does it, and the others do nothing."""
    async with database.driver() as pg:
        await past(pg, 12)
    elsewhere = [Database(database_url) for _ in range(2)]
    counts = await asyncio.gather(
        *(Janitor(each, retention_days=7).run_once() for each in (database, *elsewhere))
    )
    assert sum(counts) == 5
    while await Janitor(database, retention_days=7).run_once():
        pass
    for each in elsewhere:
        await each.close()


# Sources that were deleted


async def delete(database: Database, source_id: int) -> None:
    async with database.begin() as connection:
        await sources.delete(connection, source_id)


async def test_what_a_deleted_source_still_received_is_given_up(
    database: Database, source_id: int
) -> None:
    """A receiver lets requests in for some seconds after the deletion."""
    other = await add_source(database, "other")
    await delete(database, source_id)
    async with database.driver() as pg:
        late, dead = await store(
            pg,
            new_event(source_id),
            new_event(source_id, dead_code="thin_payload", dead_copy=True),
        )
        theirs = await store(pg, new_event(other), new_event(other))
        await bury(pg, theirs[1])
    janitor = Janitor(database, retention_days=0)
    assert await janitor.run_once() == 1
    assert await janitor.run_once() == 0
    async with database.driver() as pg:
        assert await states(pg, late, dead) == ["skipped", "skipped"]
        assert await states(pg, *theirs) == ["pending", "dead"]
        assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 1
        log = await pg.fetchrow("SELECT who, action, target FROM relay.operator_log")
        assert log is not None
        assert tuple(log) == ("relay", "source.discard", str(source_id))


async def test_copies_of_a_deleted_source_do_not_hold_a_partition(
    database: Database, source_id: int
) -> None:
    async with database.driver() as pg:
        old = (await past(pg, 8))[0]
        stored = await store_at(pg, old.lower)
        await queue_at(pg, stored, old.lower, kind=1)
    assert await Janitor(database, retention_days=7).run_once() == 0
    await delete(database, source_id)
    janitor = Janitor(database, retention_days=7)
    assert await janitor.run_once() == 1
    assert await janitor.run_once() == 1
    async with database.driver() as pg:
        assert old not in await partitions.list_partitions(pg)


# As a role that owns nothing


@pytest_asyncio.fixture
async def lesser(database_url: str) -> AsyncIterator[Database]:
    database = Database(as_login(database_url, "receiver"))
    yield database
    await database.close()


async def overdue(database: Database, retention_days: int, **options: int) -> int:
    async with database.begin() as connection:
        return await partitions.count_overdue(connection, retention_days=retention_days, **options)


@pytest.mark.parametrize("login", ["receiver", "forwarder", "admin"])
async def test_a_lesser_role_makes_partitions(
    database: Database, database_url: str, login: str
) -> None:
    async with database.driver() as pg:
        made = await partitions.list_partitions(pg)
        for each in made:
            await pg.execute(
                f"DROP TABLE relay.inbox_{each.suffix}; DROP TABLE relay.receipt_{each.suffix}"
            )
    lesser = Database(as_login(database_url, login))
    assert await Janitor(lesser, retention_days=0).run_once() == 3
    async with lesser.driver() as pg:
        assert await partitions.list_partitions(pg) == made
    await lesser.close()


async def test_a_lesser_role_leaves_the_rest_and_says_so_once(
    database: Database, lesser: Database
) -> None:
    async with database.driver() as pg:
        await past(pg, 12)
    janitor = Janitor(lesser, retention_days=7)
    with structlog.testing.capture_logs() as logged:
        assert [await janitor.run_once() for _ in range(3)] == [0, 0, 0]
    assert [(line["event"], line["log_level"]) for line in logged] == [
        ("janitor.leaves_the_rest", "info")
    ]
    assert not (await janitor.run_in_turn(patience_seconds=5)).is_whole
    assert await Janitor(database, retention_days=7).run_once() == 5


async def test_without_the_function_it_goes_on_without_partitions(
    database: Database, lesser: Database
) -> None:
    """As on the schema of before; nothing fails, minute after minute."""
    async with database.driver() as pg:
        (*_, last) = await partitions.list_partitions(pg)
        await pg.execute(f"DROP TABLE relay.inbox_{last.suffix}")
        await pg.execute("DROP FUNCTION relay.make_partition(timestamptz, timestamptz)")
    janitor = Janitor(lesser, retention_days=0)
    with structlog.testing.capture_logs() as logged:
        assert [await janitor.run_once() for _ in range(2)] == [0, 0]
    assert [line["event"] for line in logged] == [
        "janitor.may_not_make_partitions",
        "janitor.leaves_the_rest",
    ]


async def test_any_role_can_tell_what_is_overdue(database: Database, lesser: Database) -> None:
    """A day of grace: house is kept once a day where no process may."""
    async with database.driver() as pg:
        await past(pg, 12)
    assert await overdue(lesser, 7) == 4
    assert await overdue(lesser, 7, grace_days=0) == 5
    assert await overdue(lesser, 11) == 0
    assert await overdue(lesser, 0) == 0
    await Janitor(database, retention_days=7).run_once()
    assert await overdue(database, 7) == 0
