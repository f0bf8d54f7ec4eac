"""Partitions made through the database's own function, by a role that owns nothing."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from relay.store import partitions
from relay.store.engine import Database

DAY = timedelta(days=1)

# All that makes a partition what it is: columns, constraints, indexes, triggers, options, owner.
_STRUCTURE = """
SELECT c.relname, c.relowner::regrole::text, c.reloptions, obj_description(c.oid),
       ARRAY(SELECT (a.attname, a.atttypid::regtype, a.attnotnull, a.attstorage, a.attcompression,
                     pg_get_expr(d.adbin, d.adrelid))::text
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
             WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum) AS columns,
       ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid
             ORDER BY 1) AS constraints,
       ARRAY(SELECT regexp_replace(pg_get_indexdef(x.indexrelid), '_p\\d+', '', 'g')
             FROM pg_index x WHERE x.indrelid = c.oid ORDER BY 1) AS indexes,
       ARRAY(SELECT regexp_replace(pg_get_triggerdef(t.oid), '_p\\d+', '', 'g')
             FROM pg_trigger t WHERE t.tgrelid = c.oid ORDER BY 1) AS triggers
FROM pg_class c WHERE c.relnamespace = 'relay'::regnamespace AND c.relname ~ '_p\\d+$'
  AND c.relkind = 'r' ORDER BY c.relname
"""


@pytest_asyncio.fixture
async def database(direct_url: str) -> AsyncIterator[Database]:
    """Past a pooler: SET ROLE would stay with a connection that others get."""
    database = Database(direct_url)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def stranger(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection as a role that may use the schema and the function, and nothing else."""
    name = "relay_test_" + secrets.token_hex(4)
    async with database.driver() as pg:
        await pg.execute(
            f"CREATE ROLE {name};"
            f"GRANT USAGE ON SCHEMA relay TO {name};"
            f"GRANT EXECUTE ON FUNCTION relay.make_partition(timestamptz, timestamptz) TO {name};"
            f"SET ROLE {name}"
        )
        yield pg
        await pg.execute("RESET ROLE")
        await pg.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest_asyncio.fixture
async def today(database: Database) -> datetime:
    async with database.driver() as pg:
        moment: datetime = await pg.fetchval("SELECT date_trunc('day', now(), 'UTC')")
        return moment


async def drop_all(database: Database) -> None:
    async with database.driver() as pg:
        for each in await partitions.list_partitions(pg):
            await pg.execute(
                f"DROP TABLE relay.inbox_{each.suffix}; DROP TABLE relay.receipt_{each.suffix}"
            )


async def structure(database: Database) -> list[tuple[object, ...]]:
    async with database.driver() as pg:
        return [tuple(row) for row in await pg.fetch(_STRUCTURE)]


@pytest.mark.parametrize("lz4", [True, False], ids=["as it is", "without lz4"])
async def test_they_are_like_those_that_the_owner_makes(
    database: Database, stranger: asyncpg.Connection, lz4: bool
) -> None:
    await drop_all(database)
    async with database.driver() as pg:
        if not lz4:
            await pg.execute("ALTER TABLE relay.inbox ALTER body SET COMPRESSION default")
        assert await partitions.ensure_ahead(pg, retention_days=7) == 3
        made = await partitions.list_partitions(pg)
    expected = await structure(database)
    assert len(expected) == 6
    await drop_all(database)
    assert await partitions.ensure_ahead(stranger, retention_days=7) == 3
    assert await partitions.list_partitions(stranger) == made
    assert await structure(database) == expected


async def test_a_name_that_is_taken_is_passed_over(
    database: Database, stranger: asyncpg.Connection
) -> None:
    async with database.driver() as pg:
        kept = (await partitions.list_partitions(pg))[0].suffix
        await pg.execute(f"ALTER TABLE relay.inbox DETACH PARTITION relay.inbox_{kept}")
        await pg.execute(f"ALTER TABLE relay.receipt DETACH PARTITION relay.receipt_{kept}")
    assert await partitions.ensure_ahead(stranger, retention_days=0) == 1
    made = await partitions.list_partitions(stranger)
    assert made[0].suffix == f"{kept}000000"


@pytest.mark.parametrize(
    ("begins", "lasts"),
    [
        (-DAY, DAY),
        (200 * DAY, DAY),
        (95 * DAY, 30 * DAY),
        (91 * DAY, 0 * DAY),
        (91 * DAY, -DAY),
        (91 * DAY, timedelta(seconds=1)),
        (40 * DAY, 32 * DAY),
        (None, DAY),
    ],
    ids=["past", "far", "its end is far", "empty", "backwards", "tiny", "long", "infinite"],
)
async def test_what_may_be_asked_for_is_bounded(
    stranger: asyncpg.Connection, today: datetime, begins: timedelta | None, lasts: timedelta
) -> None:
    text = "infinity" if begins is None else (today + begins).isoformat()
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await stranger.execute(
            "SELECT relay.make_partition($1::text::timestamptz, $1::text::timestamptz + $2)",
            text,
            lasts,
        )


async def test_null_is_refused(stranger: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await stranger.execute("SELECT relay.make_partition(NULL, now())")


async def test_it_does_what_its_owner_means_whatever_the_caller_has_set(
    database: Database, stranger: asyncpg.Connection
) -> None:
    """A search path of the caller's own, with functions called like PostgreSQL's."""
    await drop_all(database)
    await stranger.execute(
        "SET search_path = pg_temp, pg_catalog; SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL';"
        "CREATE FUNCTION pg_temp.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql"
        " AS 'SELECT ''DROP TABLE relay.inbox CASCADE''';"
        "CREATE FUNCTION pg_temp.to_regclass(text) RETURNS regclass LANGUAGE sql"
        " AS 'SELECT NULL::regclass'"
    )
    assert await partitions.ensure_ahead(stranger, retention_days=7) == 3
    await stranger.execute("DISCARD ALL")
    async with database.driver() as pg:
        assert len(await partitions.list_partitions(pg)) == 3
        assert all(each.lower.hour == 0 for each in await partitions.list_partitions(pg))


async def test_nobody_may_whom_nobody_allowed(database: Database) -> None:
    name = "relay_test_" + secrets.token_hex(4)
    async with database.driver() as pg:
        await pg.execute(f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA relay TO {name}")
        await pg.execute(f"SET ROLE {name}")
        for call in ("make_partition(now(), now())", "body(1)", "body_text(1)", "readable('x')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pg.fetch(f"SELECT relay.{call}")
        await pg.execute("RESET ROLE")
        await pg.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
