"""The dashboard beside a fake of the Stripe API, for tests through HTTP and in a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import TEST_KEY
from relay.settings import Settings
from relay.snapshotter import Shared, Snapshotter
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.admin.world import LOCKED, Served, served

KEY = new_key()


def settings_beside(stripe: FakeStripe) -> dict[str, Any]:
    """With both tokens."""
    return LOCKED | {"encryption_keys": (KEY,), "stripe_api_base": stripe.url}


@pytest_asyncio.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe({"customer": 250, "charge": 30}) as fake:
        yield fake


@pytest_asyncio.fixture
async def desk(database_url: str, stripe: FakeStripe) -> AsyncIterator[Served]:
    async with served(database_url, **settings_beside(stripe)) as made:
        yield made


async def add_source(
    database: Database,
    name: str,
    *resources: str,
    key: str | None = TEST_KEY,
    **fields: Any,
) -> int:
    """A source with a key of the fake Stripe; its id."""
    chosen = {"resources": resources} if resources else {}
    config = SourceConfig(source_id=0, public_id="", name=name, insecure=True, **(chosen | fields))
    sealed = None if key is None else Seal([KEY]).seal(key.encode())
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=sealed
        )
    return made.config.source_id


async def read_pages(database: Database, stripe: FakeStripe, turns: int | None = None) -> None:
    """What a snapshotter does, in so many turns or until nothing is left."""
    settings = Settings(stripe_api_base=stripe.url, stripe_rate_share=1.0)
    shared = Shared(database, Seal([KEY]), settings)
    snapshotter = Snapshotter(shared)
    while turns != 0 and await snapshotter.run_once():
        turns = None if turns is None else turns - 1
    await shared.close()
