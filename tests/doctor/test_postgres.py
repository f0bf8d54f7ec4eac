"""PostgreSQL broken on purpose, and the check that has to say so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

from relay.dev.postgres import EmbeddedPostgres
from relay.settings import Settings
from relay.store.schema import migrate
from tests.doctor.conftest import Examine, examined, one
from tests.store.rows import new_event, store
from tests.support.databases import Databases


@pytest_asyncio.fixture
async def login(postgres: Databases, direct_url: str) -> AsyncIterator[str]:
    """The URL of a role that may do nothing but log in; its name is `login_of_<database>`."""
    name = "login_of_" + urlsplit(direct_url).path.removeprefix("/")
    admin = await asyncpg.connect(direct_url)
    try:
        await admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'secret-of-a-test'")
        yield as_role(direct_url, name)
        await admin.execute(f'DROP OWNED BY "{name}"')
        await admin.execute(f'DROP ROLE "{name}"')
    finally:
        await admin.close()


def as_role(url: str, name: str) -> str:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(name)}:secret-of-a-test@{hosts}"))


def role_of(url: str) -> str:
    return urlsplit(url).username or ""


async def test_no_database_is_told(check: Examine) -> None:
    found = one(await check("postgres.reachable", database_url=None), "failed")
    assert "RELAY_DATABASE_URL is not set" in found.reason


async def test_a_server_that_is_away(check: Examine) -> None:
    away = "postgresql://postgres:secret-of-a-test@127.0.0.1:1/x"
    found = one(await check("postgres.reachable", database_url=away), "failed")
    assert "secret-of-a-test" not in str(found)
    skipped = one(await check("postgres.version", database_url=away), "skipped")
    assert skipped.reason == "needs postgres.reachable"


async def test_a_wrong_password(check: Examine, login: str) -> None:
    wrong = login.replace("secret-of-a-test", "something-else")
    found = one(await check("postgres.reachable", database_url=wrong), "failed")
    assert "password authentication failed" in found.reason
    assert "something-else" not in str(found)


async def test_a_database_that_is_not_there(check: Examine, direct_url: str) -> None:
    found = one(await check("postgres.reachable", database_url=direct_url + "x"), "failed")
    assert found.fix is not None
    assert "create the database" in found.fix


async def test_a_database_without_the_schema(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    found = one(await examined("postgres.schema", settings), "failed")
    assert found.fix == "run `relay migrate`"
    one(await examined("sources.present", settings), "skipped")


async def test_a_database_in_another_encoding(postgres: Databases) -> None:
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(
        "CREATE DATABASE in_latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        settings = Settings(database_url=postgres.url("in_latin1"))
        assert "LATIN1" in one(await examined("postgres.encoding", settings), "failed").reason
    finally:
        await admin.execute("DROP DATABASE in_latin1")
        await admin.close()


async def test_a_server_that_does_not_flush(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        found = await examined("postgres.durability", Settings(database_url=server.dsn))
    assert one(found, "failed").reason == "fsync is off"


async def test_commits_that_are_not_waited_for(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    name = role_of(login)
    one(await check("postgres.durability"), "ok")
    await pg.execute(f'ALTER ROLE "{name}" SET synchronous_commit = off')
    # Seen from another role, and from the one that it is about.
    other = one(await check("postgres.durability"), "warning")
    assert name in other.reason
    itself = one(await check("postgres.durability", database_url=login), "failed")
    assert "synchronous_commit is off" in itself.reason
    assert itself.fix == f'ALTER ROLE "{name}" RESET synchronous_commit'
    await pg.execute(itself.fix)
    one(await check("postgres.durability", database_url=login), "ok")


async def test_a_role_that_may_only_read(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    await pg.execute(f'ALTER ROLE "{role_of(login)}" SET default_transaction_read_only = on')
    found = one(await check("postgres.writable", database_url=login), "failed")
    assert "default_transaction_read_only" in found.reason


async def test_a_superuser_is_too_much(check: Examine, direct_url: str) -> None:
    found = one(await check("postgres.role"), "warning")
    assert "superuser" in found.reason
    own = await examined("postgres.role", Settings(database_url=direct_url), development=True)
    one(own, "ok")


async def test_a_role_that_may_do_nothing(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    # Without the schema there is nothing to see at all.
    schema = one(await check("postgres.schema", database_url=login), "skipped")
    assert schema.fix is not None
    assert "USAGE ON SCHEMA relay" in schema.fix
    name = role_of(login)
    await pg.execute(
        f'GRANT USAGE ON SCHEMA relay TO "{name}"; GRANT SELECT ON relay.compatibility TO "{name}"'
    )
    found = one(await check("postgres.role", database_url=login), "failed")
    assert "INSERT ON relay.inbox" in found.reason


async def test_what_a_role_may_not_see_is_skipped(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    name = role_of(login)
    await pg.execute(
        f'GRANT USAGE ON SCHEMA relay TO "{name}"; GRANT SELECT ON relay.compatibility TO "{name}"'
    )
    found = one(await check("sources.keys", database_url=login), "skipped")
    assert found.fix is not None
    assert found.fix.endswith("has SELECT ON relay.source")


async def test_the_receiver_s_rights_are_enough_for_the_receiver(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    name = role_of(login)
    await pg.execute(f'GRANT USAGE ON SCHEMA relay TO "{name}"')
    await pg.execute(
        f'GRANT SELECT ON relay.compatibility, relay.source, relay.api_key TO "{name}"'
    )
    await pg.execute(
        f'GRANT INSERT ON relay.inbox, relay.event_key, relay.queue, relay.dead_letter TO "{name}"'
    )
    found = one(await check("postgres.role", database_url=login), "ok")
    assert "may do the work of receiver, not of forwarder" in found.reason


async def test_an_owner_is_too_much(postgres: Databases, login: str) -> None:
    url = await postgres.create_empty()
    admin = await asyncpg.connect(url)
    try:
        name, database = role_of(login), urlsplit(url).path.removeprefix("/")
        await admin.execute(f'GRANT CREATE ON DATABASE "{database}" TO "{name}"')
        own = as_role(url, name)
        await migrate(own)
        found = one(await examined("postgres.role", Settings(database_url=own)), "warning")
        assert "owns the tables" in found.reason
    finally:
        await admin.close()
        await postgres.drop(url)


async def test_an_old_transaction(
    check: Examine, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    one(await check("postgres.vacuum_horizon"), "ok")
    monkeypatch.setattr("relay.doctor.upkeep.LONG_TRANSACTION_SECONDS", 0.0)
    async with pg.transaction(isolation="repeatable_read"):
        pid = await pg.fetchval("SELECT pg_backend_pid()")
        found = one(await check("postgres.vacuum_horizon"), "warning")
    assert f"pid {pid} (relay of " in found.reason
    assert found.fix == f"end it: SELECT pg_terminate_backend({pid})"


async def test_sessions_of_others_are_not_everybody_s_to_see(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    name = role_of(login)
    await pg.execute(f'GRANT USAGE ON SCHEMA relay TO "{name}"')
    async with pg.transaction(isolation="repeatable_read"):
        await pg.execute("SELECT FROM relay.source")
        found = one(await check("postgres.vacuum_horizon", database_url=login), "skipped")
        assert found.fix == f'GRANT pg_monitor TO "{name}"'
    await pg.execute(found.fix)
    one(await check("postgres.vacuum_horizon", database_url=login), "ok")


async def test_what_survives_its_session_holds_vacuum_back(tmp_path: Path) -> None:
    settings = {"max_prepared_transactions": "5", "wal_level": "logical"}
    async with EmbeddedPostgres(tmp_path, settings=settings) as server:
        await migrate(server.dsn)
        pg = await asyncpg.connect(server.dsn)
        await pg.execute(
            "BEGIN; SELECT nextval('relay.arrival'); CREATE TABLE x (); PREPARE TRANSACTION 'left'"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("relay.doctor.upkeep.LONG_TRANSACTION_SECONDS", 0.0)
            found = await examined("postgres.vacuum_horizon", Settings(database_url=server.dsn))
        await pg.close()
    assert "prepared transaction 'left'" in one(found, "warning").reason


async def test_autovacuum_switched_off_for_a_table(check: Examine, pg: asyncpg.Connection) -> None:
    one(await check("postgres.autovacuum"), "ok")
    await pg.execute("ALTER TABLE relay.queue SET (autovacuum_enabled = off)")
    found = one(await check("postgres.autovacuum"), "warning")
    assert found.reason == "autovacuum is switched off for queue"
    assert found.fix is not None
    await pg.execute(found.fix)
    one(await check("postgres.autovacuum"), "ok")


async def test_dead_rows_that_vacuum_leaves(
    check: Examine, pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.doctor.upkeep.MANY_DEAD_ROWS", 1)
    source_id = await pg.fetchval(
        "INSERT INTO relay.source (public_id, name, resources, unselected, default_topic, metadata,"
        " fan_out, dlq, dlq_topic, topic_prefix, route_by, tombstones, tolerance, mode, insecure,"
        " signing_secrets) VALUES ('src_1', 'shop', '{}', 'SKIP', 'x', true, '{}', true, '', '',"
        " 'event_type', false, 300, 'any', true, '{}') RETURNING id"
    )
    await store(pg, *(new_event(source_id) for _ in range(3)))
    await pg.execute("DELETE FROM relay.queue")
    await pg.execute("SELECT pg_stat_force_next_flush()")
    await pg.execute("SELECT 1")
    found = one(await check("postgres.autovacuum"), "warning")
    assert found.reason == "queue has 3 dead rows and was vacuumed never"


async def test_partitions_that_end(check: Examine, pg: asyncpg.Connection) -> None:
    assert one(await check("postgres.partitions"), "ok").reason.endswith("days ahead")
    names = [
        row["name"]
        for row in await pg.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'relay.inbox'::regclass ORDER BY 1"
        )
    ]
    assert len(names) >= 3
    # One in the middle, then all but the present one, then all.
    await pg.execute(f"DROP TABLE {names[1]}")
    assert "is missing from" in one(await check("postgres.partitions"), "failed").reason
    for name in names[2:]:
        await pg.execute(f"DROP TABLE {name}")
    assert "only" in one(await check("postgres.partitions", retention_days=365), "warning").reason
    await pg.execute(f"DROP TABLE {names[0]}")
    one(await check("postgres.partitions"), "failed")


async def test_partitions_that_should_be_gone(check: Examine, pg: asyncpg.Connection) -> None:
    one(await check("postgres.retention", retention_days=30), "ok")
    for parent in ("inbox", "receipt"):
        await pg.execute(
            f"CREATE TABLE relay.{parent}_p20200101 PARTITION OF relay.{parent}"
            " FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')"
        )
    found = one(await check("postgres.retention", retention_days=30), "warning")
    assert "1 partitions, from 2020-01-01 on" in found.reason
    assert "everything is kept" in one(await check("postgres.retention"), "ok").reason


@pytest.mark.parametrize("name", ["statement_timeout", "idle_in_transaction_session_timeout"])
async def test_timeouts_that_would_end_batches(
    check: Examine, login: str, pg: asyncpg.Connection, name: str
) -> None:
    await pg.execute(f"ALTER ROLE \"{role_of(login)}\" SET {name} = '3s'")
    found = one(await check("postgres.timeouts", database_url=login), "warning")
    assert found.reason.startswith(f"{name} is 3 s for this role")


async def test_too_few_connections_for_a_process(
    check: Examine, login: str, pg: asyncpg.Connection
) -> None:
    one(await check("postgres.connections"), "ok")
    await pg.execute(f'ALTER ROLE "{role_of(login)}" CONNECTION LIMIT 5')
    found = one(await check("postgres.connections", database_url=login), "warning")
    assert "leaves 5 connections" in found.reason


async def test_a_standby_that_nobody_is(tmp_path: Path) -> None:
    settings = {"synchronous_standby_names": "other"}
    async with EmbeddedPostgres(tmp_path, settings=settings) as server:
        found = await examined("postgres.standbys", Settings(database_url=server.dsn))
    assert "no such standby is connected" in one(found, "failed").reason


async def test_a_server_as_it_should_be(check: Examine) -> None:
    for name in ("version", "encoding", "writable", "durability", "standbys", "isolation"):
        one(await check(f"postgres.{name}"), "ok")
    for name in ("schema", "pooler", "connections", "tls", "timeouts", "wraparound"):
        one(await check(f"postgres.{name}"), "ok")
