"""Partitions are there before they are needed, whenever house is kept."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.store import partitions
from relay.store.partitions import Partition, ensure_ahead, list_partitions, width
from tests.store.days import DAY, past, store_at
from tests.store.rows import new_event, put

NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


async def forget(pg: asyncpg.Connection) -> None:
    """Drop all partitions: the database before house was kept for the first time."""
    for partition in await list_partitions(pg):
        await pg.execute(
            f"DROP TABLE relay.inbox_{partition.suffix}, relay.receipt_{partition.suffix}"
        )


# Which are missing


def made(existing: list[Partition], now: datetime, step: timedelta) -> list[Partition]:
    """All partitions after house was kept; fails when two of them overlap."""
    new = [Partition("", lower, upper) for lower, upper in partitions._missing(existing, now, step)]
    every = sorted([*existing, *new], key=lambda partition: partition.lower)
    for before, after in itertools.pairwise(every):
        assert before.upper <= after.lower
    assert all(partition.lower < partition.upper for partition in new)
    assert all(partition.upper - partition.lower <= step for partition in new)
    return every


def covers(every: list[Partition], moment: datetime) -> bool:
    return any(partition.lower <= moment < partition.upper for partition in every)


steps = st.sampled_from([width(days) for days in (0, 1, 14, 15, 90, 91, 400)])
ages = st.integers(0, 3 * 365 * 24 * 60)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Partition], datetime]:
    """What rounds of housekeeping left, with settings that changed and partitions that went."""
    now = datetime(2024, 2, 28, 23, 59, tzinfo=UTC)
    every: list[Partition] = []
    for _ in range(draw(st.integers(0, 6))):
        every = made(every, now, draw(steps))
        now += timedelta(minutes=draw(ages))
        gone = draw(st.sets(st.integers(0, 20)))
        every = [each for place, each in enumerate(every) if place not in gone]
    return every, now


@given(history=histories(), step=steps)
def test_no_gap_and_no_overlap(history: tuple[list[Partition], datetime], step: timedelta) -> None:
    existing, now = history
    every = made(existing, now, step)
    moment = now
    while moment <= now + 2 * step:
        assert covers(every, moment)
        moment += timedelta(hours=7)
    assert covers(every, now + 2 * step)
    assert made(every, now, step) == every


@given(history=histories(), step=steps)
def test_nothing_is_made_for_days_that_have_passed(
    history: tuple[list[Partition], datetime], step: timedelta
) -> None:
    existing, now = history
    new = partitions._missing(existing, now, step)
    assert all(lower >= now.replace(hour=0, minute=0) for lower, _ in new)


@given(now=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1)))
def test_a_day_begins_at_midnight_utc_wherever_the_clock_hangs(now: datetime) -> None:
    utc = now.replace(tzinfo=UTC)
    there = utc.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
    assert list(partitions._missing([], utc, DAY)) == list(partitions._missing([], there, DAY))


@pytest.mark.parametrize(
    ("retention_days", "days"), [(0, 30), (1, 1), (14, 1), (15, 7), (90, 7), (91, 30), (3650, 30)]
)
def test_a_partition_is_fine_enough_for_the_retention(retention_days: int, days: int) -> None:
    assert width(retention_days) == timedelta(days=days)


# Making them


async def test_two_whole_ones_lie_ahead(pg: asyncpg.Connection) -> None:
    await forget(pg)
    assert await ensure_ahead(pg, retention_days=7, now=NOON) == 3
    assert [(each.suffix, each.lower, each.upper) for each in await list_partitions(pg)] == [
        (
            f"p2026030{day}",
            datetime(2026, 3, day, tzinfo=UTC),
            datetime(2026, 3, day + 1, tzinfo=UTC),
        )
        for day in (1, 2, 3)
    ]
    assert await ensure_ahead(pg, retention_days=7, now=NOON) == 0
    # Midnight is the first moment of a day.
    assert await ensure_ahead(pg, retention_days=7, now=datetime(2026, 3, 2, tzinfo=UTC)) == 1


async def test_receipts_are_cut_at_the_same_moments(pg: asyncpg.Connection) -> None:
    bounds = """
        SELECT pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_inherits h
        JOIN pg_class c ON c.oid = h.inhrelid WHERE h.inhparent = $1::text::regclass ORDER BY 1
    """
    await past(pg, 5)
    inbox = await pg.fetch(bounds, "relay.inbox")
    assert inbox == await pg.fetch(bounds, "relay.receipt")
    assert len(inbox) >= 5


@pytest.mark.parametrize(
    "settings",
    ["SET timezone = 'America/St_Johns'", "SET datestyle = 'SQL, DMY'", "SET datestyle = 'German'"],
)
async def test_whatever_the_server_is_set_to(pg: asyncpg.Connection, settings: str) -> None:
    """Bounds are told in the server's time zone and style."""
    await forget(pg)
    await pg.execute(settings)
    await ensure_ahead(pg, retention_days=30, now=NOON)
    found = await list_partitions(pg)
    assert [each.lower for each in found] == [
        datetime(2026, 3, day, tzinfo=UTC) for day in (1, 8, 15)
    ]
    assert await ensure_ahead(pg, retention_days=30, now=NOON) == 0
    await pg.execute("RESET timezone; RESET datestyle")
    assert await list_partitions(pg) == found


async def test_new_ones_have_the_width_of_the_new_retention(pg: asyncpg.Connection) -> None:
    await forget(pg)
    await ensure_ahead(pg, retention_days=0, now=NOON)
    last = (await list_partitions(pg))[-1].upper
    assert await ensure_ahead(pg, retention_days=60, now=last - timedelta(hours=1)) == 2
    assert await ensure_ahead(pg, retention_days=3, now=last + timedelta(days=13)) == 2
    widths = [(each.upper - each.lower).days for each in await list_partitions(pg)]
    assert widths == [30, 30, 30, 7, 7, 1, 1]


async def test_after_months_without_housekeeping_today_comes_first(pg: asyncpg.Connection) -> None:
    await forget(pg)
    await ensure_ahead(pg, retention_days=7, now=NOON - timedelta(days=200))
    await ensure_ahead(pg, retention_days=7, now=NOON)
    assert [each.suffix for each in await list_partitions(pg)][3:] == [
        *("p20260301", "p20260302", "p20260303")
    ]


async def test_a_gap_made_by_hand_is_filled(pg: asyncpg.Connection) -> None:
    """Also when the table that was taken out is still there, under the name of the new one."""
    await forget(pg)
    await ensure_ahead(pg, retention_days=7, now=NOON)
    await pg.execute(
        "ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_p20260302;"
        "ALTER TABLE relay.receipt DETACH PARTITION relay.receipt_p20260302"
    )
    assert await ensure_ahead(pg, retention_days=7, now=NOON) == 1
    found = await list_partitions(pg)
    assert [each.suffix for each in found] == ["p20260301", "p20260302000000", "p20260303"]
    await store_at(pg, datetime(2026, 3, 2, 7, tzinfo=UTC))
    await pg.execute("ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_p20260302000000")
    await pg.execute("ALTER TABLE relay.receipt DETACH PARTITION relay.receipt_p20260302000000")
    assert await ensure_ahead(pg, retention_days=7, now=NOON) == 1
    assert (await list_partitions(pg))[1].suffix == "p20260302000001"
    assert all(partitions.is_partition_name(f"inbox_{each.suffix}") for each in found)


async def test_two_at_once(pg: asyncpg.Connection, other: asyncpg.Connection) -> None:
    for round_ in range(5):
        await forget(pg)
        now = NOON + round_ * DAY
        counts = await asyncio.gather(
            ensure_ahead(pg, retention_days=7, now=now),
            ensure_ahead(other, retention_days=7, now=now),
        )
        assert sorted(counts) == [0, 3]


async def test_they_are_attached_without_a_wait_for_inserts(
    pg: asyncpg.Connection, other: asyncpg.Connection, source_id: int
) -> None:
    """Neither waits for the other: an insert that is not committed yet, and the next ones."""
    last = (await list_partitions(pg))[-1].upper
    transaction = other.transaction()
    await put(other, new_event(source_id))
    await transaction.start()
    await other.execute("SET LOCAL lock_timeout = '1s'")
    await store_at(other, await other.fetchval("SELECT now()"))
    assert await ensure_ahead(pg, retention_days=0, now=last) > 0
    await store_at(other, await other.fetchval("SELECT now()"))
    await transaction.commit()


# Sixty days


async def test_sixty_days_with_a_week_of_retention(pg: asyncpg.Connection) -> None:
    """House is kept once a day, at any time of it, and sometimes not; nothing is ever lacking."""
    hazard = random.Random(5)
    await forget(pg)
    today: datetime = await pg.fetchval("SELECT date_trunc('day', now(), 'UTC')")
    now = today - 60 * DAY
    await ensure_ahead(pg, retention_days=7, now=now)
    stored: dict[int, datetime] = {}
    while now < today:
        now += timedelta(hours=hazard.uniform(6, 30))
        for _ in range(3):
            moment = now + timedelta(hours=hazard.uniform(0, 6))
            stored[await store_at(pg, moment)] = moment
        await ensure_ahead(pg, retention_days=7, now=now)
        for partition in await partitions.find_droppable(pg, retention_days=7, now=now):
            assert partition.upper <= now - 7 * DAY
            assert await partitions.drop(pg, partition)
        kept = {row["id"] for row in await pg.fetch("SELECT id FROM relay.inbox")}
        assert kept == {
            row["inbox_id"] for row in await pg.fetch("SELECT inbox_id FROM relay.receipt")
        }
        for each, moment in stored.items():
            # Whole partitions, so up to a day more than the retention, and never less.
            if moment >= now - 7 * DAY:
                assert each in kept
            if moment < now - 8 * DAY:
                assert each not in kept
        assert len(await list_partitions(pg)) <= 12
    while await partitions.prune(pg, retention_days=7):
        pass
    real = await pg.fetchval("SELECT now()")
    keys = {row["inbox_id"] for row in await pg.fetch("SELECT inbox_id FROM relay.event_key")}
    assert keys == {each for each, moment in stored.items() if moment >= real - 35 * DAY}
    assert len(keys) < len(stored)
