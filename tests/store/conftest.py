"""A source in a fresh database, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.store import sources
from relay.store.engine import Database


@pytest_asyncio.fixture
async def source_id(database: Database) -> int:
    """A source without a secret."""
    config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id


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
