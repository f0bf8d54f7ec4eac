"""`relay roles`, `relay housekeeping`, and the command line as the roles it is meant for."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from relay.cli import database as commands
from relay.store import partitions, roles
from relay.store.engine import READ_COMMITTED, Database
from tests.cli.conftest import Receive, Relay, environment, event, invoke, output
from tests.store.days import past
from tests.support.logins import as_login


async def test_apply_is_told_and_harmless(database_url: str) -> None:
    owner = {"RELAY_DATABASE_URL": database_url}
    result = await invoke("roles", "apply", "--json", environ=owner)
    assert [each["role"] for each in output(result)] == list(roles.ROLES)
    assert "relay_test_receiver" in output(result)[1]["members"]
    result = await invoke("roles", "apply", environ=owner)
    assert "relay_receiver" in result.stdout


async def test_apply_needs_the_rights(database_url: str) -> None:
    result = await invoke("roles", "apply", environ=environment(database_url), exits=2)
    assert "cannot apply the roles: " in result.stderr
    assert "superuser" in result.stderr


async def test_a_transaction_in_the_way_changes_nothing(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = roles.script().replace("lock_timeout = '5s'", "lock_timeout = '50ms'")
    monkeypatch.setattr(roles, "script", lambda: impatient)
    owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'relay'"
    async with database.driver() as pg:
        # As if the inbox had been migrated before there were roles.
        await pg.execute("ALTER SCHEMA relay OWNER TO CURRENT_USER")
        await pg.execute("ALTER TABLE relay.queue OWNER TO CURRENT_USER")
        before = await pg.fetchval(owner)
        environ = {"RELAY_DATABASE_URL": database_url}
        async with pg.transaction():
            await pg.execute("SELECT FROM relay.queue")
            result = await invoke("roles", "apply", environ=environ, exits=1)
            assert "a transaction has held a table for 5 s" in result.stderr
        assert await pg.fetchval(owner) == before != "relay_migrator"
        await invoke("roles", "apply", environ=environ)
        assert await pg.fetchval(owner) == "relay_migrator"


async def test_the_script_runs_in_psql(database_url: str, tmp_path: Path) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("no psql (Debian: postgresql-client)")
    result = await invoke("roles", "sql", environ={})
    script = tmp_path / "roles.sql"
    script.write_text(result.stdout)
    done = await asyncio.create_subprocess_exec(
        *(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script, database_url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await done.communicate()
    assert (done.returncode, errors) == (0, b"")


async def test_housekeeping_is_for_the_migrator(database_url: str, database: Database) -> None:
    async with database.driver() as pg:
        await past(pg, 12)
    environ = {"RELAY_RETENTION_DAYS": "7"}
    as_admin = environment(database_url, **environ)
    result = await invoke("housekeeping", "--json", environ=as_admin, exits=1)
    assert output(result)["partitions_overdue"] == 4
    assert output(result)["complete"] is False
    assert "may only make partitions" in result.stderr

    as_migrator = environ | {"RELAY_DATABASE_URL": as_login(database_url, "migrator")}
    result = await invoke("housekeeping", "--json", environ=as_migrator)
    assert output(result) == {
        "partitions_made": 0,
        "partitions_dropped": 5,
        "rows_pruned": 0,
        "rows_sealed": 0,
        "sources_cleared": 0,
        "partitions_overdue": 0,
        "complete": True,
    }
    result = await invoke("housekeeping", environ=as_migrator)
    assert "partitions dropped  0" in result.stdout


async def test_housekeeping_waits_for_its_turn_but_not_for_ever(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_PATIENCE_SECONDS", 0.05)
    environ = {"RELAY_DATABASE_URL": as_login(database_url, "migrator")}
    async with database.driver() as pg, pg.transaction(isolation=READ_COMMITTED):
        assert await partitions.try_lock_housekeeping(pg)
        result = await invoke("housekeeping", environ=environ, exits=1)
        assert "another process has kept house" in result.stderr
    await invoke("housekeeping", environ=environ)


async def test_the_auditor_looks_and_changes_nothing(
    database_url: str, relay: Relay, receive: Receive
) -> None:
    await relay("source", "create", "acme", "--insecure")
    await receive("acme", event("evt_1"))
    await receive("acme", event("evt_2"), dead="no_route")
    auditor = {"RELAY_DATABASE_URL": as_login(database_url, "auditor")}
    result = await invoke("events", "list", "--source", "acme", "--json", environ=auditor)
    assert len(output(result)) == 2
    result = await invoke("dlq", "list", "--json", environ=auditor)
    assert len(output(result)) == 1
    for command in (["events", "skip", "--source", "acme", "--yes"], ["source", "list"]):
        result = await invoke(*command, environ=auditor, exits=1)
        assert "the role of RELAY_DATABASE_URL may not do this: permission denied" in result.stderr


async def test_before_the_tables_there_is_nothing_to_grant(empty_database_url: str) -> None:
    owner = {"RELAY_DATABASE_URL": empty_database_url}
    result = await invoke("roles", "apply", environ=owner)
    assert "run `relay migrate`, as a member of relay_migrator; that grants" in result.stderr
    result = await invoke(
        "migrate", environ={"RELAY_DATABASE_URL": as_login(empty_database_url, "migrator")}
    )
    auditor = {"RELAY_DATABASE_URL": as_login(empty_database_url, "auditor")}
    await invoke("events", "list", environ=auditor)
    result = await invoke("roles", "apply", environ=owner)
    assert result.stderr == ""
