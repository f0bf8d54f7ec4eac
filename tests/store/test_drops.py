"""Retention drops whole partitions, and nothing that is still needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
import pytest

from relay.store import partitions
from relay.store.engine import Database
from relay.store.partitions import Partition, drop, find_droppable, finish_drops, list_partitions
from tests.store.days import DAY, past, queue_at, store_at
from tests.store.rows import is_waiting, new_event, put, states
from tests.support.processes import eventually

# Its id is 1, which the rows below are of.
pytestmark = pytest.mark.usefixtures("source_id")

WEEK = 7


async def old_one(pg: asyncpg.Connection) -> tuple[Partition, int]:
    """A partition that is due, with an event that was delivered."""
    partition = (await past(pg, 10))[0]
    return partition, await store_at(pg, partition.lower + DAY / 2)


async def exists(pg: asyncpg.Connection, partition: Partition) -> tuple[bool, bool]:
    """Whether the tables of the inbox and of the receipts are there, attached or not."""
    found = await pg.fetchrow(
        "SELECT to_regclass('relay.inbox_' || $1) IS NOT NULL AS inbox,"
        " to_regclass('relay.receipt_' || $1) IS NOT NULL AS receipt",
        partition.suffix,
    )
    assert found is not None
    return found["inbox"], found["receipt"]


async def is_whole(pg: asyncpg.Connection, partition: Partition, stored: int) -> bool:
    """Whether it is attached, unmarked, and its event in the views."""
    attached = partition in await list_partitions(pg)
    mark = await pg.fetchval(
        "SELECT obj_description(to_regclass('relay.inbox_' || $1))", partition.suffix
    )
    return attached and mark is None and len(await states(pg, stored)) == 1


# What is due


async def test_only_whole_partitions_older_than_the_retention_are_due(
    pg: asyncpg.Connection,
) -> None:
    old = await past(pg, 20)
    now: datetime = await pg.fetchval("SELECT now()")
    due = await find_droppable(pg, retention_days=WEEK)
    assert due == [each for each in old if each.upper <= now - WEEK * DAY]
    assert len(due) == 13
    midnight = old[-1].upper
    for moment, count in ((midnight, 13), (midnight - DAY / 24, 12), (midnight + DAY, 14)):
        assert len(await find_droppable(pg, retention_days=WEEK, now=moment)) == count
    assert await find_droppable(pg, retention_days=0) == []
    assert await find_droppable(pg, retention_days=-1) == []
    assert await find_droppable(pg, retention_days=10_000) == []


async def test_a_drop_takes_the_pair_and_nothing_else(pg: asyncpg.Connection) -> None:
    partition, stored = await old_one(pg)
    kept = await store_at(pg, partition.upper)
    before = await list_partitions(pg)
    assert await drop(pg, partition)
    assert await exists(pg, partition) == (False, False)
    assert await list_partitions(pg) == before[1:]
    assert await states(pg, stored, kept) == ["delivered"]
    assert await finish_drops(pg, retention_days=WEEK) == 0


@pytest.mark.parametrize("kind", [0, 1], ids=["an event", "a copy of a dead letter"])
async def test_what_waits_holds_its_partition(pg: asyncpg.Connection, kind: int) -> None:
    partition, stored = await old_one(pg)
    await queue_at(pg, stored, partition.lower + DAY / 2, kind=kind)
    assert partition not in await find_droppable(pg, retention_days=WEEK)
    # At the very ends of the partition, and only inside of it.
    for moment, held in ((partition.lower, True), (partition.upper, False)):
        await pg.execute("UPDATE relay.queue SET received_at = $1", moment)
        assert (partition in await find_droppable(pg, retention_days=WEEK)) is not held
    await pg.execute("DELETE FROM relay.queue")
    assert partition in await find_droppable(pg, retention_days=WEEK)


@pytest.mark.parametrize("how", ["replayed_at", "discarded_at"])
async def test_an_open_dead_letter_holds_its_partition(pg: asyncpg.Connection, how: str) -> None:
    partition, stored = await old_one(pg)
    await _bury(pg, stored, partition.lower + DAY / 2)
    assert partition not in await find_droppable(pg, retention_days=WEEK)
    await pg.execute(f"UPDATE relay.dead_letter SET {how} = now()")
    assert partition in await find_droppable(pg, retention_days=WEEK)


async def _bury(pg: asyncpg.Connection, stored: int, moment: datetime) -> None:
    await pg.execute(
        """
        INSERT INTO relay.dead_letter
            (source_id, inbox_id, received_at, event_id, error_code, error, attempts)
        VALUES (1, $1, $2, $3, 'too_large', '', 1)
        """,
        stored,
        moment,
        f"old_{stored}",
    )


async def test_one_that_must_stay_does_not_hold_the_others(pg: asyncpg.Connection) -> None:
    old = await past(pg, 12)
    await store_at(pg, old[1].lower, settled=False)
    due = await find_droppable(pg, retention_days=WEEK)
    assert [each.suffix for each in due] == [
        each.suffix for place, each in enumerate(old[:5]) if place != 1
    ]


# Interrupted


async def mark(pg: asyncpg.Connection, partition: Partition) -> None:
    text = f"{partitions._DROP_MARK} {partition.lower.isoformat()} {partition.upper.isoformat()}"
    await pg.execute(f"COMMENT ON TABLE relay.inbox_{partition.suffix} IS '{text}'")


async def detach(pg: asyncpg.Connection, parent: str, partition: Partition) -> None:
    name = f"relay.{parent}_{partition.suffix}"
    await pg.execute(f"ALTER TABLE relay.{parent} DETACH PARTITION {name} CONCURRENTLY")


async def half_detach(
    pg: asyncpg.Connection, other: asyncpg.Connection, parent: str, partition: Partition
) -> None:
    """As a process that is killed while the detach waits leaves it."""
    transaction = other.transaction()
    await transaction.start()
    await other.fetch(f"SELECT FROM relay.{parent} LIMIT 1")
    with pytest.raises(TimeoutError):
        await pg.execute(
            f"ALTER TABLE relay.{parent} DETACH PARTITION relay.{parent}_{partition.suffix}"
            " CONCURRENTLY",
            timeout=1.0,
        )
    # The error comes before the server has given up; the next statement comes after.
    await pg.execute("SELECT 1")
    await transaction.rollback()
    pending = await pg.fetchval(
        "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass($1)",
        f"relay.{parent}_{partition.suffix}",
    )
    assert pending


Step = Callable[[asyncpg.Connection, asyncpg.Connection, Partition], Awaitable[None]]


async def marked(pg: asyncpg.Connection, _: asyncpg.Connection, partition: Partition) -> None:
    await mark(pg, partition)


async def inbox_half(pg: asyncpg.Connection, other: asyncpg.Connection, each: Partition) -> None:
    await mark(pg, each)
    await half_detach(pg, other, "inbox", each)


async def inbox_out(pg: asyncpg.Connection, _: asyncpg.Connection, each: Partition) -> None:
    await mark(pg, each)
    await detach(pg, "inbox", each)


async def receipts_half(pg: asyncpg.Connection, other: asyncpg.Connection, each: Partition) -> None:
    await inbox_out(pg, other, each)
    await half_detach(pg, other, "receipt", each)


async def both_out(pg: asyncpg.Connection, other: asyncpg.Connection, each: Partition) -> None:
    await inbox_out(pg, other, each)
    await detach(pg, "receipt", each)


STEPS: list[Step] = [marked, inbox_half, inbox_out, receipts_half, both_out]
steps = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)


@steps
async def test_an_interrupted_drop_is_completed(
    pg: asyncpg.Connection, other: asyncpg.Connection, step: Step
) -> None:
    partition, _ = await old_one(pg)
    await step(pg, other, partition)
    # One at a time: PostgreSQL cannot detach a second one.
    assert await find_droppable(pg, retention_days=WEEK) == []
    assert await finish_drops(pg, retention_days=WEEK) == 1
    assert await exists(pg, partition) == (False, False)
    assert partition not in await list_partitions(pg)
    assert await finish_drops(pg, retention_days=WEEK) == 0
    assert len(await find_droppable(pg, retention_days=WEEK)) == 2


@steps
@pytest.mark.parametrize("retention_days", [0, 30])
async def test_what_the_retention_keeps_by_now_comes_back(
    pg: asyncpg.Connection, other: asyncpg.Connection, step: Step, retention_days: int
) -> None:
    """An operator saw it go, stopped it, and asked for more."""
    partition, stored = await old_one(pg)
    await step(pg, other, partition)
    assert await finish_drops(pg, retention_days=retention_days) == 0
    assert await is_whole(pg, partition, stored)
    assert await pg.fetchval("SELECT count(*) FROM relay.receipt WHERE inbox_id = $1", stored) == 1
    # And may go later, as any other.
    assert await drop(pg, partition)
    assert await exists(pg, partition) == (False, False)


@steps
async def test_what_turns_out_to_be_unfinished_comes_back(
    pg: asyncpg.Connection, other: asyncpg.Connection, step: Step
) -> None:
    partition, stored = await old_one(pg)
    await step(pg, other, partition)
    await queue_at(pg, stored, partition.lower + DAY / 2)
    assert await finish_drops(pg, retention_days=WEEK) == 0
    assert await is_whole(pg, partition, stored)
    assert await states(pg, stored) == ["pending"]


async def test_rows_that_came_back_are_still_evidence(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    partition, stored = await old_one(pg)
    await both_out(pg, other, partition)
    await finish_drops(pg, retention_days=0)
    for table in ("inbox", "receipt", f"inbox_{partition.suffix}"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(f"DELETE FROM relay.{table}")
        with pytest.raises(asyncpg.RestrictViolationError):
            await pg.execute(f"TRUNCATE relay.{table}")
    assert await is_whole(pg, partition, stored)


async def test_keys_and_dead_letters_of_a_half_dropped_partition_stay(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """It may come back, and must then be as it was."""
    partition = (await past(pg, 50))[0]
    moment = partition.lower + DAY / 2
    stored = await store_at(pg, moment)
    await _bury(pg, stored, moment)
    await pg.execute("UPDATE relay.dead_letter SET discarded_at = now()")
    await both_out(pg, other, partition)
    assert await partitions.prune(pg, retention_days=WEEK) == 0
    await finish_drops(pg, retention_days=0)
    assert await is_whole(pg, partition, stored)


# At the same time


async def test_a_replay_that_comes_between_look_and_drop(pg: asyncpg.Connection) -> None:
    partition, stored = await old_one(pg)
    assert partition in await find_droppable(pg, retention_days=WEEK)
    await queue_at(pg, stored, partition.lower + DAY / 2)
    assert not await drop(pg, partition)
    assert await is_whole(pg, partition, stored)
    assert await states(pg, stored) == ["pending"]
    # Twice: what came back can be dropped like any other.
    await pg.execute("DELETE FROM relay.queue")
    assert await drop(pg, partition)


async def test_a_replay_that_is_not_committed_when_the_drop_begins(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """It has seen the row: the detach waits for it, and then sees what it did."""
    partition, stored = await old_one(pg)
    replay = other.transaction()
    await replay.start()
    assert await other.fetchval("SELECT count(*) FROM relay.inbox WHERE id = $1", stored) == 1
    await queue_at(other, stored, partition.lower + DAY / 2)
    assert partition in await find_droppable(pg, retention_days=WEEK)
    dropping = asyncio.create_task(drop(pg, partition))
    await eventually(lambda: is_waiting(other))
    await replay.commit()
    assert not await dropping
    assert await is_whole(other, partition, stored)
    assert await states(other, stored) == ["pending"]


@asynccontextmanager
async def old_transaction(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Somebody looked at the inbox and went to lunch."""
    async with database.driver() as pg:
        transaction = pg.transaction()
        await transaction.start()
        await pg.fetch("SELECT FROM relay.inbox LIMIT 1")
        yield pg
        await transaction.rollback()


async def test_a_forgotten_transaction_does_not_stop_the_house(
    pg: asyncpg.Connection,
    other: asyncpg.Connection,
    database: Database,
    source_id: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The drop waits for it, gives up, and is completed when it has ended; all else goes on."""
    monkeypatch.setattr(partitions, "DETACH_SECONDS", 0.5)
    partition, _ = await old_one(pg)
    last = (await list_partitions(pg))[-1].upper
    async with old_transaction(database):
        assert not await drop(pg, partition)
        assert not await finish_drops(pg, retention_days=WEEK)
        assert await find_droppable(pg, retention_days=WEEK) == []
        assert await partitions.ensure_ahead(pg, retention_days=WEEK, now=last) > 0
        assert await put(other, new_event(source_id)) == [True]
    assert await finish_drops(pg, retention_days=WEEK) == 1
    assert await exists(pg, partition) == (False, False)


async def test_inserts_never_wait_for_a_drop(
    pg: asyncpg.Connection, other: asyncpg.Connection, database: Database, source_id: int
) -> None:
    """Not even while the drop itself waits; nor do those who look."""
    partition, _ = await old_one(pg)
    await other.execute("SET lock_timeout = '500ms'")
    async with old_transaction(database):
        dropping = asyncio.create_task(drop(pg, partition))
        await eventually(lambda: is_waiting(other))
        for _ in range(10):
            assert await put(other, new_event(source_id)) == [True]
            await other.fetch("SELECT * FROM relay.events ORDER BY id DESC LIMIT 5")
        assert not dropping.done()
    while not dropping.done():
        assert await put(other, new_event(source_id)) == [True]
    assert await dropping
    await other.execute("RESET lock_timeout")


async def test_inserts_never_wait_while_many_are_dropped_and_made(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    await past(pg, 14)
    await other.execute("SET lock_timeout = '500ms'")

    async def keep_house() -> int:
        dropped = 0
        for partition in await find_droppable(pg, retention_days=WEEK):
            dropped += await drop(pg, partition)
        last = (await list_partitions(pg))[-1].upper
        for day in range(5):
            await partitions.ensure_ahead(pg, retention_days=WEEK, now=last + day * DAY)
        return dropped

    keeping = asyncio.create_task(keep_house())
    stored = 0
    while not keeping.done():
        stored += sum(await put(other, *(new_event(source_id) for _ in range(20))))
    assert await keeping == 7
    assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == stored > 0
    await other.execute("RESET lock_timeout")


# By hand


async def test_what_somebody_has_detached_is_never_dropped(pg: asyncpg.Connection) -> None:
    partition, _ = await old_one(pg)
    await pg.execute(
        f"ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_{partition.suffix};"
        f"COMMENT ON TABLE relay.inbox_{partition.suffix} IS 'for the auditors'"
    )
    for _ in range(2):
        assert await finish_drops(pg, retention_days=WEEK) == 0
        for each in await find_droppable(pg, retention_days=WEEK):
            assert each.suffix != partition.suffix
            assert await drop(pg, each)
    assert await exists(pg, partition) == (True, True)
    assert await pg.fetchval(f"SELECT count(*) FROM relay.inbox_{partition.suffix}") == 1


# The small rows that pointed into what has gone


async def test_event_keys_outlive_the_retention_but_not_for_ever(pg: asyncpg.Connection) -> None:
    now: datetime = await pg.fetchval("SELECT now()")
    old = await past(pg, 40)
    young, middle, aged = [await store_at(pg, now - age * DAY) for age in (1, 34.9, 35.1)]
    for partition in old:
        if partition.upper <= now - WEEK * DAY:
            assert await drop(pg, partition)
    assert await partitions.prune(pg, retention_days=WEEK) == 1
    keys = {row["inbox_id"] for row in await pg.fetch("SELECT inbox_id FROM relay.event_key")}
    assert keys == {young, middle}
    assert aged not in keys
    assert await partitions.prune(pg, retention_days=WEEK) == 0


async def test_event_keys_stay_as_long_as_their_rows(pg: asyncpg.Connection) -> None:
    """However old: the partition is held by what waits in it."""
    now: datetime = await pg.fetchval("SELECT now()")
    await past(pg, 60)
    stored = await store_at(pg, now - 59.5 * DAY)
    await store_at(pg, now - 59.5 * DAY, settled=False)
    for partition in await find_droppable(pg, retention_days=WEEK):
        assert await drop(pg, partition)
    assert await partitions.prune(pg, retention_days=WEEK) == 0
    assert await states(pg, stored) == ["delivered"]


async def test_closed_dead_letters_and_failures_go_with_their_partition(
    pg: asyncpg.Connection,
) -> None:
    partition, stored = await old_one(pg)
    moment = partition.lower + DAY / 2
    await _bury(pg, stored, moment)
    await pg.execute("UPDATE relay.dead_letter SET discarded_at = now()")
    await pg.execute(
        "INSERT INTO relay.attempt (inbox_id, number, failed_at, error_code, error)"
        " VALUES ($1, $1, $2, 'code', '')",
        stored,
        moment,
    )
    assert await partitions.prune(pg, retention_days=WEEK) == 0
    assert await drop(pg, partition)
    assert await partitions.prune(pg, retention_days=0) == 0
    assert await partitions.prune(pg, retention_days=WEEK) == 2


async def test_open_dead_letters_are_never_pruned(pg: asyncpg.Connection) -> None:
    """Not even when their partition was taken away by hand."""
    partition, stored = await old_one(pg)
    await _bury(pg, stored, partition.lower + DAY / 2)
    await pg.execute(f"DROP TABLE relay.inbox_{partition.suffix}")
    assert await partitions.prune(pg, retention_days=WEEK) == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.dead_letter") == 1


async def test_a_call_prunes_a_bounded_number(pg: asyncpg.Connection) -> None:
    await pg.execute(
        """
        INSERT INTO relay.event_key (event_id, source_id, inbox_id, received_at)
        SELECT 'evt_' || n, 1, n, now() - interval '90 days' FROM generate_series(1, 25000) n
        """
    )
    counts = [await partitions.prune(pg, retention_days=WEEK) for _ in range(4)]
    assert counts == [10_000, 10_000, 5_000, 0]
