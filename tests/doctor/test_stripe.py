"""What Stripe says to the keys of the sources, and how their snapshots stand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from relay.core.listings import API_VERSION, listings_of
from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import LIVE_KEY, TEST_KEY
from relay.store import snapshots, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.doctor.conftest import KEY, AddSource, Examine, one


@pytest_asyncio.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    keys = {TEST_KEY: None, LIVE_KEY: None, "rk_test_charges": ["charge"]}
    async with FakeStripe({"customer": 3}, keys=keys) as fake:
        yield fake


async def give_key(
    database: Database, stripe_key: str, *, name: str = "shop", key: str = KEY
) -> SourceConfig:
    async with database.begin() as connection:
        found = await sources.find(connection, name)
        await sources.update_settings(
            connection,
            found.config.source_id,
            found.config,
            sealed_secrets=found.sealed_secrets,
            sealed_stripe_key=Seal([key]).seal(stripe_key.encode()),
        )
        return found.config


async def test_no_key(check: Examine, add_source: AddSource) -> None:
    await add_source()
    one(await check("stripe.access"), "skipped")


@pytest.mark.parametrize(
    ("key", "settings", "verdict", "words"),
    [
        (TEST_KEY, {}, "ok", "takes the keys of shop"),
        ("sk_test_revoked", {}, "failed", "Invalid API Key"),
        ("rk_test_charges", {}, "warning", "permission"),
        (LIVE_KEY, {"mode": "test"}, "failed", "its key is a live one"),
    ],
)
async def test_what_stripe_says(
    check: Examine,
    add_source: AddSource,
    database: Database,
    stripe: FakeStripe,
    key: str,
    settings: dict[str, str],
    verdict: str,
    words: str,
) -> None:
    await add_source(**settings)
    await give_key(database, key)
    found = one(await check("stripe.access", stripe_api_base=stripe.url), verdict)
    assert words in found.reason
    assert key not in found.reason


async def test_stripe_cannot_be_reached(
    check: Examine, add_source: AddSource, database: Database
) -> None:
    await add_source()
    await give_key(database, TEST_KEY)
    found = one(await check("stripe.access", stripe_api_base="http://127.0.0.1:1"), "warning")
    assert "127.0.0.1:1" in found.reason


async def test_a_key_that_nothing_opens(
    check: Examine, add_source: AddSource, database: Database, stripe: FakeStripe
) -> None:
    await add_source()
    await give_key(database, TEST_KEY, key=new_key())
    found = one(await check("stripe.access", stripe_api_base=stripe.url), "failed")
    assert "RELAY_ENCRYPTION_KEYS" in found.reason


async def test_a_failed_snapshot_counts_until_a_newer_one(
    check: Examine, add_source: AddSource, database: Database, stripe: FakeStripe
) -> None:
    await add_source()
    config = await give_key(database, TEST_KEY)
    plan = snapshots.Plan(
        listings=tuple(
            (each.resource, each) for each in listings_of(config.resources, config.route_by)
        ),
        api_version=API_VERSION,
        livemode=False,
    )
    async with database.begin() as connection:
        first = await snapshots.start(connection, plan, config.source_id)
        await snapshots.change(connection, first, "pause")
    assert first in one(await check("stripe.snapshots"), "warning").reason
    async with database.begin() as connection:
        await snapshots.start(connection, plan, config.source_id)
    one(await check("stripe.snapshots"), "ok")
