"""Snapshots of our fake of the Stripe API into a fresh database; forwarders are not needed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from relay.store.engine import Database
from tests.snapshotter.world import World


@pytest_asyncio.fixture
async def world(database: Database) -> AsyncIterator[World]:
    world = World(database)
    yield world
    await world.close()


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about the rate."""
    monkeypatch.setattr("relay.snapshotter.turns.ENDPOINT_RATE", 10_000.0)
    monkeypatch.setattr(
        "relay.snapshotter.turns.ACCOUNT_RATE", {"live": 10_000.0, "test": 10_000.0}
    )
