"""One browser for all tests, and visits that must go without a problem.

RELAY_TEST_CHROMIUM is the path of the browser; without it nothing here is collected.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.admin.conftest import dashboard, pg, source_id

__all__ = ["dashboard", "pg", "source_id"]

# Taken out of the environment, where relay's own processes would refuse an unknown RELAY_ name;
# workers of xdist inherit the other.
if _given := os.environ.pop("RELAY_TEST_CHROMIUM", None):
    os.environ["TESTS_CHROMIUM"] = _given
_PROGRAM = os.environ.get("TESTS_CHROMIUM")

if _PROGRAM is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from playwright.async_api import Browser, expect

    from tests.browser.chromium import chromium
    from tests.browser.visit import PATIENCE_MS, Visits

    expect.set_options(timeout=PATIENCE_MS)

    @pytest_asyncio.fixture(scope="session")
    async def browser() -> AsyncIterator[Browser]:
        """The one of this run."""
        assert _PROGRAM is not None
        async with chromium(_PROGRAM) as started:
            yield started

    @pytest_asyncio.fixture
    async def visit(browser: Browser) -> AsyncIterator[Visits]:
        """Makes pages: `page = await visit(dashboard)`; fails the test for what went wrong."""
        visits = Visits(browser)
        yield visits
        await visits.close()
        if visits.problems:
            pytest.fail("\n".join(visits.problems))
