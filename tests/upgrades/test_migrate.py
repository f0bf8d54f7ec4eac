"""`relay migrate`: up and down, asked first, and never in the way of those who work."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.store import roles, schema
from relay.store.engine import Database
from relay.store.schema import BUILD_REVISION, SchemaBusyError, migrate
from tests.acceptance.fleet import THIS_BUILD, Program, command, environment
from tests.store.rows import new_event, put
from tests.upgrades import next_build

NEXT_BUILD: Program = (sys.executable, next_build.__file__)
NEXT = BUILD_REVISION + 1

# Everything by which two schemas may differ, but for the numbers of columns.
_SHAPE = """
SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' '
       || coalesce(column_default, '') || is_nullable
FROM information_schema.columns WHERE table_schema = 'relay'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'relay'
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'relay'::regnamespace
UNION ALL SELECT 'view ' || viewname || definition FROM pg_views WHERE schemaname = 'relay'
UNION ALL SELECT 'function ' || pg_get_functiondef(oid)
FROM pg_proc WHERE pronamespace = 'relay'::regnamespace
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(t.oid)
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'relay'::regnamespace
ORDER BY 1
"""


@pytest.fixture
async def pg(direct_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(direct_url)
    yield connection
    await connection.close()


async def relay(
    *arguments: str, url: str, program: Program = THIS_BUILD, exits: int = 0
) -> tuple[str, str]:
    """Standard output and standard error of `relay migrate …`."""
    settings: Mapping[str, str] = environment(RELAY_DATABASE_URL=url)
    status, output, errors = await command(
        "migrate", *arguments, environment=settings, relay=program
    )
    assert status == exits, output + errors
    return output, errors


async def revision(pg: asyncpg.Connection) -> int:
    found: int = await pg.fetchval("SELECT revision FROM relay.compatibility")
    return found


async def shape(pg: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await pg.fetch(_SHAPE)]


# Up and down


async def test_every_step_tells_its_revision_and_goes_back_to_what_was(
    empty_database_url: str,
) -> None:
    url = empty_database_url
    shapes: dict[int, list[str]] = {}
    for number in schema.revision_names():
        await migrate(url, f"{number:04}")
        pg = await asyncpg.connect(url)
        status = "SELECT revision, min_compatible FROM relay.compatibility"
        found, least = await pg.fetchrow(status)
        assert (found, least <= max(number - 1, 1)) == (number, True)
        shapes[number] = await shape(pg)
        await pg.close()
    for number in sorted(shapes, reverse=True)[1:]:
        await migrate(url, f"{number:04}")
        pg = await asyncpg.connect(url)
        assert await revision(pg) == number
        assert await shape(pg) == shapes[number]
        await pg.close()


async def test_going_down_is_asked_first(direct_url: str, pg: asyncpg.Connection) -> None:
    await relay(url=direct_url, program=NEXT_BUILD)
    assert await revision(pg) == NEXT
    down = ("--to", str(BUILD_REVISION))
    _, errors = await relay(*down, url=direct_url, program=NEXT_BUILD, exits=2)
    assert f"drops what came with {NEXT} (What a next release may bring)" in errors
    assert "repeat with --yes" in errors
    assert await revision(pg) == NEXT
    output, _ = await relay(*down, "--yes", "--json", url=direct_url, program=NEXT_BUILD)
    assert json.loads(output)["revision"] == BUILD_REVISION
    assert await revision(pg) == BUILD_REVISION


async def test_a_schema_of_the_next_build_is_left_as_it_is(
    direct_url: str, pg: asyncpg.Connection
) -> None:
    """Or a rollback of the deployment would fail in its first step, which migrates."""
    await relay(url=direct_url, program=NEXT_BUILD)
    output, _ = await relay(url=direct_url)
    assert f"is at revision {NEXT}; this build, {BUILD_REVISION}, fits it" in output
    await relay("--check", url=direct_url)
    _, errors = await relay("--to", str(BUILD_REVISION), "--yes", url=direct_url, exits=2)
    assert "go down with a build that knows it" in errors
    assert await revision(pg) == NEXT


async def test_a_schema_that_has_left_this_build_behind_fails(
    direct_url: str, pg: asyncpg.Connection
) -> None:
    await relay(url=direct_url, program=NEXT_BUILD)
    await pg.execute(f"UPDATE relay.compatibility SET min_compatible = {NEXT}")
    for arguments in ((), ("--check",)):
        output, errors = await relay(*arguments, url=direct_url, exits=1)
        assert f"needs a build of revision {NEXT} or later" in output + errors


async def test_check_tells_and_changes_nothing(empty_database_url: str) -> None:
    output, _ = await relay("--check", url=empty_database_url, exits=1)
    assert "the schema is missing: run `relay migrate`" in output
    await relay(url=empty_database_url)
    output, _ = await relay("--check", "--json", url=empty_database_url)
    assert json.loads(output) == {
        "revision": BUILD_REVISION,
        "build_revision": BUILD_REVISION,
        "usable": True,
        "reason": None,
    }
    output, _ = await relay("--check", url=empty_database_url, program=NEXT_BUILD, exits=1)
    assert f"at revision {BUILD_REVISION}, this build needs {NEXT}" in output
    await relay("--check", "--to", "1", url=empty_database_url, exits=2)


async def test_a_revision_that_is_not_known_is_refused(
    direct_url: str, pg: asyncpg.Connection
) -> None:
    _, errors = await relay("--to", "9000", url=direct_url, exits=2)
    assert "this build knows no revision 9000" in errors
    await relay("--to", "0", "--yes", url=direct_url, exits=2)
    assert await revision(pg) == BUILD_REVISION


async def test_twice_at_once_in_one_process(empty_database_url: str) -> None:
    """Alembic keeps its work in a module."""
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(3)))
    pg = await asyncpg.connect(empty_database_url)
    assert await revision(pg) == BUILD_REVISION
    await pg.close()


# In nobody's way


@pytest.fixture
async def source_id(pg: asyncpg.Connection) -> int:
    made: int = await pg.fetchval(
        "INSERT INTO relay.source (public_id, name, resources, unselected, default_topic, metadata,"
        " fan_out, dlq, dlq_topic, topic_prefix, route_by, tombstones, tolerance, mode, insecure,"
        " signing_secrets) VALUES ('src_1', 'shop', '{}', 'SKIP', 'unknown', true, '{}', true,"
        " 'dead_letter', '', 'event_type', false, 300, 'any', true, '{}') RETURNING id"
    )
    return made


@pytest.fixture
def next_revision(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes this process the next build; the name of its revision."""
    monkeypatch.setattr(schema, "BUILD_REVISION", NEXT)
    monkeypatch.setattr(schema, "_alembic_config", next_build.with_the_next)
    monkeypatch.setattr(roles, "_text", next_build.grants_of_the_next)
    return f"{NEXT:04}"


async def test_a_long_transaction_holds_up_the_migration_and_not_the_events(
    direct_url: str, pg: asyncpg.Connection, source_id: int, next_revision: str
) -> None:
    reader = await asyncpg.connect(
        direct_url, server_settings={"application_name": "a long report"}
    )
    report = reader.transaction()
    await report.start()
    await reader.fetch("SELECT count(*) FROM relay.inbox")
    told: list[str] = []
    going = asyncio.create_task(migrate(direct_url, on_wait=told.append))
    # An insert that comes while the migration waits for the report waits behind it, and not for
    # longer than that lasts: all of these are stored while the report goes on.
    number = 0
    while len(told) < 2:
        number += 1
        async with asyncio.timeout(5):
            assert await put(pg, new_event(source_id, f"evt_{number}")) == [True]
    assert not going.done()
    assert await revision(pg) == BUILD_REVISION
    assert f"backend {reader.get_server_pid()} (a long report, idle in transaction" in told[0]
    await report.rollback()
    await reader.close()
    await going
    assert await revision(pg) == NEXT
    assert await pg.fetchval("SELECT count(*) FROM relay.inbox") == number


async def test_the_patience_ends_with_the_name_of_who_is_in_the_way(
    direct_url: str, pg: asyncpg.Connection, next_revision: str
) -> None:
    async with pg.transaction():
        await pg.execute("LOCK TABLE relay.receipt IN ACCESS SHARE MODE")
        with pytest.raises(SchemaBusyError, match=rf"backend {pg.get_server_pid()} .* nothing was"):
            await migrate(direct_url, patience_seconds=0.5)
    assert await revision(pg) == BUILD_REVISION
    await migrate(direct_url, patience_seconds=0.5)
    assert await revision(pg) == NEXT


async def test_a_revision_of_an_unknown_build_is_no_way_down(
    direct_url: str, next_revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(direct_url)
    monkeypatch.undo()
    for target in ("base", f"{BUILD_REVISION:04}"):
        with pytest.raises(ConfigError, match="go down with a build that knows it"):
            await migrate(direct_url, target)
    await migrate(direct_url)


# What a build does with a schema that is not its own


@pytest.mark.parametrize(
    ("revision", "least", "usable", "runs"),
    [
        (BUILD_REVISION, BUILD_REVISION, True, True),
        (BUILD_REVISION - 1, 0, False, True),
        (BUILD_REVISION - 2, 0, False, False),
        (NEXT, BUILD_REVISION, True, True),
        (NEXT, NEXT, False, False),
    ],
    ids=["its own", "the last one", "one before that", "the next one", "a contracted one"],
)
async def test_what_a_build_runs_on(
    database: Database, revision: int, least: int, usable: bool, runs: bool
) -> None:
    async with database.begin() as connection:
        await connection.exec_driver_sql(
            f"UPDATE relay.compatibility SET min_compatible = {min(least, revision)},"
            f" revision = {revision}"
        )
        status = await schema.revision_status(connection)
        assert (status.usable, status.runs) == (usable, runs)
        if runs:
            await schema.require_runnable(connection)
        else:
            with pytest.raises(schema.IncompatibleSchemaError):
                await schema.require_runnable(connection)
