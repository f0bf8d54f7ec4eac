"""A source in a fresh database, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.store import sources
from relay.store.engine import Database
from tests.support.databases import Databases


async def _add_source(database: Database) -> int:
    config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id


@pytest_asyncio.fixture
async def source_id(database: Database) -> int:
    """A source without a secret."""
    return await _add_source(database)


@pytest_asyncio.fixture
async def pg(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A raw connection."""
    async with database.driver() as connection:
        yield connection


@pytest_asyncio.fixture
async def other(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Another one, for what happens at the same time."""
    async with database.driver() as connection:
        yield connection


@pytest_asyncio.fixture(scope="module")
async def _common(postgres: Databases) -> AsyncIterator[tuple[Database, int]]:
    url = await postgres.create()
    database = Database(url)
    yield database, await _add_source(database)
    await database.close()
    await postgres.drop(url)


@pytest_asyncio.fixture
async def common_pg(_common: tuple[Database, int]) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that the tests of a module share: what they do is taken back."""
    async with _common[0].driver() as connection:
        transaction = connection.transaction()
        await transaction.start()
        yield connection
        await transaction.rollback()


@pytest.fixture
def common_source(_common: tuple[Database, int]) -> int:
    """The source in that database."""
    return _common[1]
