"""Examining a real database and a real broker, one check at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import asyncpg
import pytest
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.doctor import CHECKS, Patient, Result, examine
from relay.doctor.finding import Finding
from relay.settings import Settings
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key

KEY = new_key()


class Examine(Protocol):
    """What one check finds; with the settings given and all of those that a test has set up."""

    async def __call__(self, name: str, **settings: Any) -> list[Result]: ...


class AddSource(Protocol):
    """Makes a source and returns the id of its row."""

    async def __call__(self, name: str = "shop", **config: Any) -> int: ...


async def examined(name: str, settings: Settings, **more: Any) -> list[Result]:
    """One check with all that it needs; what it found itself."""
    patient = Patient(settings, **more)
    try:
        results = await examine(patient, [check for check in CHECKS if check.name in _needs(name)])
    finally:
        await patient.close()
    return [each for each in results if each.name == name]


def _needs(name: str) -> set[str]:
    (check,) = (each for each in CHECKS if each.name == name)
    return {name}.union(*(_needs(each) for each in check.needs))


def one(results: list[Result], verdict: str) -> Result:
    """The only finding, which has to be of this verdict."""
    assert [each.verdict for each in results] == [verdict], results
    return results[0]


def verdicts(found: Finding | list[Finding]) -> list[str]:
    """Of what a judgement has found."""
    return [each.verdict for each in ([found] if isinstance(found, Finding) else found)]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no server that hangs."""
    monkeypatch.setattr("relay.doctor.patient.QUERY_SECONDS", 60.0)
    monkeypatch.setattr("relay.doctor.examination.CHECK_SECONDS", 90.0)


@pytest_asyncio.fixture
async def database(direct_url: str) -> AsyncIterator[Database]:
    """A pool on the fresh database, past a pooler."""
    database = Database(direct_url)
    yield database
    await database.close()


@pytest.fixture
def check(direct_url: str) -> Examine:
    """Runs checks on a fresh database, without Kafka."""

    async def run(name: str, **settings: Any) -> list[Result]:
        given = {"database_url": direct_url, "encryption_keys": (KEY,), **settings}
        return await examined(name, Settings(**given))

    return run


@pytest.fixture
def add_source(database: Database) -> AddSource:
    """Makes sources; ``secrets`` are sealed with KEY unless another ``key`` is given."""

    async def add(
        name: str = "shop", secrets: tuple[str, ...] = ("whsec_a",), key: str = KEY, **config: Any
    ) -> int:
        given = SourceConfig(source_id=0, public_id="", name=name, insecure=not secrets, **config)
        sealed = [Seal([key]).seal(secret.encode()) for secret in secrets]
        async with database.begin() as connection:
            made, _ = await sources.create(
                connection, given, sealed_secrets=sealed, sealed_stripe_key=None
            )
        return made.config.source_id

    return add


@pytest_asyncio.fixture
async def pg(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A raw connection to the same database."""
    async with database.driver() as connection:
        yield connection
