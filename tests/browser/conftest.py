"""Chromium, and pages of it that tell what went wrong in them.

`RELAY_TEST_BROWSER` is the program, by path or name; without it nothing here is collected, so that
`make test` asks for no browser.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import TEST_KEY
from relay.store import sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.admin.world import LOCKED, Served, served

# Taken out of the environment, where relay's own processes would refuse an unknown RELAY_ name.
_PROGRAM = os.environ.pop("RELAY_TEST_BROWSER", None)
if _PROGRAM is not None:
    os.environ["TESTS_BROWSER"] = _PROGRAM  # for the workers of xdist
_PROGRAM = os.environ.get("TESTS_BROWSER")

if _PROGRAM is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from playwright.async_api import Browser

    from tests.browser.tab import Tab, chromium, new_tab

KEY = new_key()


@pytest_asyncio.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    found = shutil.which(_PROGRAM or "")
    if found is None:
        pytest.fail(
            f"no browser {_PROGRAM!r}: install it (Debian and Ubuntu: apt-get install chromium),"
            " or name it (make test-browser CHROMIUM=/path/to/chromium)"
        )
    async with chromium(found) as running:
        yield running


@pytest_asyncio.fixture
async def stripe() -> AsyncIterator[FakeStripe]:
    async with FakeStripe({"customer": 250, "charge": 30}) as fake:
        yield fake


@pytest_asyncio.fixture
async def desk(database_url: str, stripe: FakeStripe, kafka: str) -> AsyncIterator[Served]:
    """The dashboard behind its two tokens, a fake of the Stripe API beside it, and a broker."""
    settings = LOCKED | {"encryption_keys": (KEY,), "stripe_api_base": stripe.url}
    settings |= {"kafka_bootstrap_servers": kafka}
    async with served(database_url, **settings) as made:
        yield made


@pytest_asyncio.fixture
async def source_id(database: Database) -> int:
    """The source `shop`, with a key for the Stripe API."""
    config = SourceConfig(
        source_id=0, public_id="", name="shop", insecure=True, resources=("customer", "charge")
    )
    sealed = Seal([KEY]).seal(TEST_KEY.encode())
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=sealed
        )
    return made.config.source_id


@pytest_asyncio.fixture
async def pg(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with database.driver() as connection:
        yield connection


@pytest_asyncio.fixture
async def tab(browser: Browser, desk: Served) -> AsyncIterator[Tab]:
    """A tab of an operator's, which has logged in; nothing may have gone wrong in it."""
    async with new_tab(browser, desk.base_url) as made:
        await made.log_in()
        yield made


@pytest_asyncio.fixture
async def still_tab(browser: Browser, desk: Served) -> AsyncIterator[Tab]:
    """The same of a browser in which no script runs."""
    async with new_tab(browser, desk.base_url, java_script_enabled=False) as made:
        await made.log_in()
        yield made
