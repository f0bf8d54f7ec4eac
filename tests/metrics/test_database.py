"""The database's figures: missing when they are unknown, never 0, and never waited for too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.source import SourceConfig
from relay.metrics import Metrics
from relay.metrics.database import Bounds, DatabaseFigures
from relay.metrics.families import Values, gauge
from relay.metrics.figures import Group, groups
from relay.store import partitions, sources, status
from relay.store.engine import Database
from tests.metrics.scrape import Page
from tests.receiver.proxy import Proxy
from tests.support.logins import as_login
from tests.support.processes import eventually

ALWAYS = Bounds(fresh=0, rest=0)

FROM_DATABASE = {family.name for group in groups(0) for family in group.families}


async def scrape(metrics: Metrics) -> Page:
    return Page(await metrics.render())


async def add_source(database: Database) -> None:
    async with database.begin() as connection:
        config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
        await sources.create(connection, config, sealed_secrets=[], sealed_stripe_key=None)


@asynccontextmanager
async def metrics_on(url: str, bounds: Bounds = ALWAYS) -> AsyncIterator[Metrics]:
    database = Database(url)
    metrics = Metrics(database, bounds=bounds)
    try:
        yield metrics
    finally:
        await metrics.close()
        await database.close()


async def test_a_database_that_is_away() -> None:
    async with metrics_on("postgresql://nobody@127.0.0.1:1/nowhere") as metrics:
        page = await scrape(metrics)
    assert page.get("relay_database_up") == 0
    assert set(page.all("relay_database_figures_up", "group").values()) == {0}
    assert page.empty() >= FROM_DATABASE
    assert "process_open_fds" in page.families


async def test_a_database_that_goes_and_comes_back(database: Database, database_url: str) -> None:
    await add_source(database)
    with Proxy(database_url) as proxy:
        async with metrics_on(proxy.url) as metrics:
            assert (await scrape(metrics)).get("relay_source_pending_events", source="shop") == 0
            proxy.cut()
            page = await scrape(metrics)
            assert page.get("relay_database_up") == 0
            assert page.empty() >= FROM_DATABASE
            proxy.mend()
            page = await scrape(metrics)
            assert page.get("relay_database_up") == 1
            assert page.get("relay_source_pending_events", source="shop") == 0


async def test_a_database_that_hangs_is_not_waited_for(
    database: Database, database_url: str
) -> None:
    """Nothing answers and nothing is refused: without a deadline this test would not end."""
    await add_source(database)
    with Proxy(database_url) as proxy:
        async with metrics_on(proxy.url) as metrics:
            assert (await scrape(metrics)).get("relay_database_up") == 1
            metrics._figures._bounds = Bounds(deadline=0.2, fresh=0, rest=0)
            proxy.freeze()
            pages = await asyncio.gather(*(scrape(metrics) for _ in range(5)))
            assert {page.get("relay_database_up") for page in pages} == {0}
            assert all(page.empty() >= FROM_DATABASE for page in pages)
            proxy.cut()
            proxy.mend()
            metrics._figures._bounds = ALWAYS

            async def is_back() -> bool:
                page = await scrape(metrics)
                return page.get("relay_source_pending_events", source="shop") == 0

            await eventually(is_back)


async def test_a_reading_that_does_not_end_is_the_only_one(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def stuck(connection: AsyncConnection) -> list[Values]:
        assert not begun.is_set()
        begun.set()
        await go_on.wait()
        return [1]

    group = Group("stuck", (gauge("relay_stuck", "."),), stuck)
    figures = DatabaseFigures(database, [group], Bounds(deadline=3600, fresh=0, rest=0))
    patient = asyncio.create_task(figures.collect())
    await begun.wait()
    figures._bounds = Bounds(deadline=0, fresh=3600, rest=0)
    for _ in range(3):
        up, value, *_ = await figures.collect()
        assert (up.samples[0].value, value.samples) == (0, [])
    assert database.in_use[0] == 1
    go_on.set()
    up, value, *_ = await patient
    assert (up.samples[0].value, value.samples[0].value) == (1, 1)


class Counted:
    """A group that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0
        self.group = Group("counted", (gauge("relay_counted", "How often."),), self._read)

    async def _read(self, connection: AsyncConnection) -> list[Values]:
        self.reads += 1
        return [self.reads]


async def test_scrapes_at_once_read_once(database: Database) -> None:
    counted = Counted()
    figures = DatabaseFigures(database, [counted.group], ALWAYS)
    await asyncio.gather(*(figures.collect() for _ in range(10)))
    assert counted.reads == 1
    await figures.collect()
    assert counted.reads == 2


async def test_what_was_just_read_is_shown_again(database: Database) -> None:
    counted = Counted()
    figures = DatabaseFigures(database, [counted.group], Bounds(fresh=3600))
    for _ in range(3):
        metrics = await figures.collect()
    assert counted.reads == 1
    assert [metric.samples[0].value for metric in metrics[:2]] == [1, 1]


async def test_what_is_dear_rests(database: Database) -> None:
    """The reading itself takes place every time, so that `up` is of now."""
    dear, cheap = Counted(), Counted()
    figures = DatabaseFigures(database, [dear.group], Bounds(fresh=0, rest=1e9))
    others = DatabaseFigures(database, [cheap.group], ALWAYS)
    for _ in range(3):
        await figures.collect()
        await others.collect()
    assert (dear.reads, cheap.reads) == (1, 3)


async def test_a_group_fails_alone(database: Database) -> None:
    async def broken(connection: AsyncConnection) -> list[Values]:
        return [await status.partitions_ahead_days(connection), 1 / 0]

    async def late(connection: AsyncConnection) -> list[Values]:
        await status.bound_statements(connection, 0.001)
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, asyncpg.Connection)
        await driver.fetchval("SELECT pg_sleep(60)")
        return [1]

    of_broken = gauge("relay_broken_a", "."), gauge("relay_broken_b", ".")
    counted = Counted()
    given = [
        Group("broken", of_broken, broken),
        Group("late", (gauge("relay_late", "."),), late),
        counted.group,
    ]
    figures = DatabaseFigures(database, given, ALWAYS)
    found = {metric.name: metric.samples for metric in await figures.collect()}
    assert [found[f"relay_{name}"] for name in ("broken_a", "broken_b", "late")] == [[], [], []]
    assert found["relay_counted"][0].value == 1
    up = {sample.labels["group"]: sample.value for sample in found["relay_database_figures_up"]}
    assert up == {"broken": 0, "late": 0, "counted": 1}


@pytest.mark.parametrize(
    ("login", "missing"),
    [
        ("receiver", {"relay_queue_batches_in_flight", "relay_queue_lanes_resting"}),
        ("forwarder", set()),
        ("services", set()),
    ],
)
async def test_what_the_roles_of_services_see(
    database: Database, database_url: str, login: str, missing: set[str]
) -> None:
    await add_source(database)
    async with metrics_on(as_login(database_url, login)) as metrics:
        page = await scrape(metrics)
    assert set(page.all("relay_database_figures_up", "group").values()) == {1}
    may_be_missing = {
        "relay_database_oldest_transaction_seconds",  # there may be none
        "relay_source_oldest_pending_seconds",  # nothing waits
        "relay_queue_lanes_resting",  # behind a pooler
    }
    assert missing <= page.empty() <= missing | may_be_missing


async def test_a_role_that_may_read_nothing(database: Database, database_url: str) -> None:
    role = f"relay_test_{uuid4().hex}"
    async with database.driver() as pg:
        await pg.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'for-tests-only'")
    try:
        parts = urlsplit(database_url)
        place = f"{role}:for-tests-only@{parts.netloc.rpartition('@')[2]}"
        async with metrics_on(parts._replace(netloc=place).geturl()) as metrics:
            page = await scrape(metrics)
    finally:
        async with database.driver() as pg:
            await pg.execute(f"DROP ROLE {role}")
    assert page.get("relay_database_up") == 1
    assert page.get("relay_database_figures_up", group="sources") == 0
    assert "relay_source_pending_events" in page.empty()
    assert page.get("relay_database_figures_up", group="server") == 1


@pytest.mark.parametrize(("days", "overdue"), [(0, 0), (30, 0), (7, 1), (6, 1)])
async def test_partitions_whose_retention_has_passed(
    database: Database, days: int, overdue: int
) -> None:
    past = datetime.now(UTC) - timedelta(days=14.5)
    async with database.driver() as pg:
        midnight = past.replace(hour=0, minute=0, second=0, microsecond=0)
        await partitions._create(pg, midnight, midnight + timedelta(days=7))
    async with database.begin() as connection:
        found = await partitions.count_overdue(connection, retention_days=days, grace_days=0)
        assert found == overdue


async def test_lanes_rest_while_nobody_holds_them(database: Database) -> None:
    """A note whose transaction is gone, beside one whose transaction still holds its lanes."""
    note = (
        "INSERT INTO relay.batch_note"
        " (id, process_id, backend_pid, started_at, source_ids, lanes, numbers)"
        " VALUES ($1, $1, $2, now(), '{1,1,1}', $3, '{1}')"
    )
    async with database.driver() as alive, database.driver() as gone:
        if await alive.fetchval("SELECT pg_backend_pid()") != alive.get_server_pid():
            pytest.skip("behind a pooler nobody can tell")
        async with alive.transaction():
            await alive.execute("SELECT FROM relay.lane FOR NO KEY UPDATE")
            await gone.execute(note, uuid4(), alive.get_server_pid(), [1, 2, 3])
            await gone.execute(note, uuid4(), gone.get_server_pid(), [4, 5, 6])
            async with database.begin() as connection:
                assert await status.resting_lanes(connection) == 3
        async with database.begin() as connection:
            assert await status.resting_lanes(connection) == 6
