"""The doctor with the rights of a service, and behind a pooler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from relay.dev.process import StartError
from relay.doctor import Patient, Result, examine
from relay.settings import Settings
from tests.doctor.conftest import KEY, AddSource, Examine, one
from tests.store.rows import new_event, store
from tests.support.databases import Databases
from tests.support.logins import as_login
from tests.support.pgbouncer import PgBouncer


async def all_checks(url: str) -> dict[str, Result]:
    """By name; none of them finds more than one thing."""
    patient = Patient(Settings(database_url=url, encryption_keys=(KEY,)))
    try:
        return {each.name: each for each in await examine(patient)}
    finally:
        await patient.close()


@pytest.mark.parametrize(
    ("login", "work", "hidden"),
    [
        (
            "receiver",
            "receiver, not of forwarder",
            {"secrets", "silent", "backlog"},
        ),
        (
            "forwarder",
            "forwarder, not of receiver",
            {"verification", "secrets", "keys", "silent"},
        ),
        (
            "snapshotter",
            "snapshotter, not of receiver",
            {"verification", "secrets", "keys", "backlog"},
        ),
        ("admin", "admin, not of receiver", set()),
        ("services", "receiver, forwarder, snapshotter, admin", set()),
    ],
)
async def test_a_service_s_rights_are_enough_to_look(
    add_source: AddSource,
    pg: asyncpg.Connection,
    direct_url: str,
    login: str,
    work: str,
    hidden: set[str],
) -> None:
    await store(pg, new_event(await add_source()))
    found = await all_checks(as_login(direct_url, login))
    assert "failed" not in {each.verdict for each in found.values()}, found
    role = found["postgres.role"]
    assert role.verdict == "ok"
    assert f"may do the work of {work}" in role.reason
    sources = {name.partition(".")[2]: each for name, each in found.items() if "sources." in name}
    skipped = {name: each for name, each in sources.items() if each.verdict == "skipped"}
    assert set(skipped) == hidden
    assert all("member of relay_admin" in (each.fix or "") for each in skipped.values())


async def test_the_owner_s_rights_are_more_than_a_service_needs(
    check: Examine, direct_url: str
) -> None:
    found = await check("postgres.role", database_url=as_login(direct_url, "migrator"))
    assert "owns the tables" in one(found, "warning").reason


async def test_who_only_reads_is_no_service(check: Examine, direct_url: str) -> None:
    found = await check("postgres.role", database_url=as_login(direct_url, "auditor"))
    assert "may do the work of no service" in one(found, "failed").reason


@pytest_asyncio.fixture(params=["transaction", "session"])
async def pooled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres: Databases
) -> AsyncIterator[tuple[str, PgBouncer]]:
    settings = {"pool_mode": request.param}
    pooler = PgBouncer(tmp_path_factory.mktemp("pooler"), postgres.dsn, settings=settings)
    try:
        await asyncio.to_thread(pooler.start)
    except StartError as error:
        if "is missing" not in str(error):
            raise
        pytest.skip(str(error))
    yield request.param, pooler
    await asyncio.to_thread(pooler.stop)


async def test_a_pooler_is_seen(
    pooled: tuple[str, PgBouncer], add_source: AddSource, direct_url: str
) -> None:
    mode, pooler = pooled
    await add_source()
    found = await all_checks(pooler.url(direct_url))
    assert "failed" not in {each.verdict for each in found.values()}, found
    told = "in transaction mode" if mode == "transaction" else "in session mode or too busy"
    assert told in found["postgres.pooler"].reason
    assert found["postgres.tls"].verdict == found["services.running"].verdict == "skipped"
