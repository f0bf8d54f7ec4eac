"""The forwarder's world on the real parts of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from relay.store.engine import Database
from tests.forwarder.world import World


@pytest_asyncio.fixture
async def world(database: Database, kafka: str, topic_prefix: str) -> AsyncIterator[World]:
    world = World(database, kafka, topic_prefix)
    yield world
    await world.close()


@pytest.fixture
def needs_apache(apache_kafka: bool) -> None:
    """For what Kafka refuses: the embedded broker refuses nothing."""
    if not apache_kafka:
        pytest.skip("RELAY_TEST_BROKER=apache: the embedded broker refuses nothing")
