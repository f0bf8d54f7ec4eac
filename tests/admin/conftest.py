"""A source, a raw connection, and the dashboard behind its two tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.store import sources
from relay.store.engine import Database
from tests.admin.world import LOCKED, Served, served


@pytest_asyncio.fixture
async def source_id(database: Database) -> int:
    """The source `shop`, without a secret."""
    config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    return made.config.source_id


@pytest_asyncio.fixture
async def pg(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A raw connection as the owner."""
    async with database.driver() as connection:
        yield connection


@pytest_asyncio.fixture
async def dashboard(database_url: str) -> AsyncIterator[Served]:
    """With both tokens."""
    async with served(database_url, **LOCKED) as made:
        yield made
