"""Ready means: what is answered 2xx now would be held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from relay.health import Health
from relay.store.engine import Database


@pytest_asyncio.fixture
async def admin(direct_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(direct_url)
    yield connection
    await connection.close()


async def check(database_url: str) -> dict[str, str | None]:
    """The failing checks with their reasons."""
    database = Database(database_url)
    readiness = await Health(database).check()
    await database.close()
    faults = {name: check.reason for name, check in readiness.checks.items() if not check.ok}
    assert readiness.ready is (not faults)
    assert all(faults.values()), "a fault without its reason"
    return faults


async def test_a_migrated_database_is_ready(database_url: str) -> None:
    assert await check(database_url) == {}


async def test_without_the_schema(empty_database_url: str) -> None:
    assert list(await check(empty_database_url)) == ["schema"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("revision = 0, min_compatible = 0", "relay migrate"),
        ("revision = 99, min_compatible = 99", "99"),
    ],
)
async def test_with_a_schema_of_another_time(
    database_url: str, admin: asyncpg.Connection, change: str, reason: str
) -> None:
    await admin.execute(f"UPDATE relay.compatibility SET {change}")
    faults = await check(database_url)
    assert list(faults) == ["schema"]
    assert reason in str(faults["schema"])


async def test_with_a_newer_schema_that_supports_this_build(
    database_url: str, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE relay.compatibility SET revision = 99")
    assert await check(database_url) == {}


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("synchronous_commit = off", "durability"),
        ("synchronous_commit = local", "durability"),
        ("default_transaction_read_only = on", "writable"),
    ],
)
async def test_with_weak_settings(
    database_url: str, admin: asyncpg.Connection, setting: str, name: str
) -> None:
    database = await admin.fetchval("SELECT current_database()")
    await admin.execute(f'ALTER DATABASE "{database}" SET {setting}')
    assert list(await check(database_url)) == [name]


async def test_without_a_database(database_url: str) -> None:
    assert list(await check("postgresql://nobody:secret@127.0.0.1:1/none")) == ["database"]


async def test_several_hosts_need_a_synchronous_standby(database_url: str) -> None:
    hosts = database_url.rpartition("@")[2].partition("/")[0]
    several = database_url.replace(hosts, f"{hosts},{hosts}")
    faults = await check(several)
    assert list(faults) == ["durability"]
    assert "synchronous_standby_names" in str(faults["durability"])


async def test_many_probes_cost_one_look(database_url: str) -> None:
    database = Database(database_url)
    health = Health(database)
    looks = 0
    look = health._look

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await look()

    health._look = counted  # type: ignore[method-assign]
    answers = await asyncio.gather(*(health.check() for _ in range(50)))
    assert all(answer.ready for answer in answers)
    assert looks == 1
    await database.close()
