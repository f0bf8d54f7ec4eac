"""Behind PgBouncer in transaction mode, which gives each transaction whatever server is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from relay.core.errors import ConfigError
from relay.dev.process import StartError
from relay.store.engine import Database
from relay.store.schema import migrate
from tests.cli.conftest import environment, invoke, output
from tests.support.databases import Databases
from tests.support.pgbouncer import PgBouncer

CLIENTS = 8
SERVERS = 2
ROUNDS = 50


@pytest_asyncio.fixture(scope="module")
async def pooler(
    postgres: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PgBouncer]:
    """With fewer servers than clients."""
    settings = {"default_pool_size": str(SERVERS)}
    pooler = PgBouncer(tmp_path_factory.mktemp("pooler"), postgres.dsn, settings=settings)
    try:
        await asyncio.to_thread(pooler.start)
    except StartError as error:
        if "is missing" not in str(error):
            raise
        pytest.skip(str(error))
    yield pooler
    await asyncio.to_thread(pooler.stop)


@pytest.fixture
def pooled_url(pooler: PgBouncer, direct_url: str) -> str:
    return pooler.url(direct_url)


@pytest_asyncio.fixture
async def pooled(pooled_url: str) -> AsyncIterator[Database]:
    database = Database(pooled_url, pool_size=CLIENTS)
    yield database
    await database.close()


async def test_a_pooler_is_noticed(pooled: Database, direct_url: str) -> None:
    assert await pooled.is_pooled()
    direct = Database(direct_url)
    assert not await direct.is_pooled()
    await direct.close()


async def test_nothing_is_mixed_up_between_clients_that_share_servers(pooled: Database) -> None:
    """Each repeats a statement of its own, raw and through SQLAlchemy, in transactions or not.

    A prepared statement that outlived its transaction would be missing on the next server, or be
    the one of somebody else.
    """
    together = asyncio.Barrier(CLIENTS)

    async def repeat(number: int) -> set[int]:
        seen = set()
        async with pooled.driver() as pg:
            await together.wait()
            for step in range(ROUNDS):
                assert await pg.fetchval(f"SELECT $1::bigint * {number}", step) == step * number
                async with pg.transaction():
                    seen.add(await pooled.backend_pid(pg))
                    told = await pg.fetchval(f"SELECT $1::text || ' of {number}'", str(step))
                    assert told == f"{step} of {number}"
        await together.wait()
        for step in range(ROUNDS):
            async with pooled.begin() as connection:
                sum_of = text(f"SELECT CAST(:step AS bigint) + {number}")
                assert (await connection.execute(sum_of, {"step": step})).scalar() == step + number
        return seen

    pids = set[int]().union(*await asyncio.gather(*map(repeat, range(CLIENTS))))
    assert len(pids) <= SERVERS, "they did share"


async def test_a_named_statement_would_not_survive(pooled_url: str) -> None:
    """So the test above can fail: this is what asyncpg does by itself."""
    one, two = [await asyncpg.connect(pooled_url) for _ in range(2)]
    assert await one.fetchval("SELECT $1::int", 1) == 1
    async with two.transaction():
        # It now has the server that knows the statement.
        await two.execute("SELECT 1")
        with pytest.raises(asyncpg.InvalidSQLStatementNameError):
            await one.fetchval("SELECT $1::int", 2)
    for connection in (one, two):
        connection.terminate()


async def test_a_backend_is_known_by_the_number_that_the_server_gave_it(pooled: Database) -> None:
    """What a note carries must be found in pg_stat_activity."""
    async with pooled.driver() as pg, pg.transaction():
        pid = await pooled.backend_pid(pg)
        assert pid != pg.get_server_pid()
        assert await pg.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) == 1


async def test_migrations_want_a_direct_connection(pooled_url: str) -> None:
    with pytest.raises(ConfigError, match="direct connection"):
        await migrate(pooled_url)


async def test_the_command_says_so(pooled_url: str) -> None:
    result = await invoke("migrate", environ=environment(pooled_url), exits=2)
    assert "RELAY_DATABASE_URL leads through a connection pooler" in result.stderr
    assert str(urlsplit(pooled_url).password) not in result.stderr


async def test_services_are_not_said_to_be_away(pooled_url: str) -> None:
    """Unknown is not none."""
    result = await invoke("status", "--json", environ=environment(pooled_url))
    found = output(result)
    assert found["services"] is None
    assert found["warnings"] == []
    shown = await invoke("status", environ=environment(pooled_url))
    assert "not to be seen through a pooler" in shown.stdout
