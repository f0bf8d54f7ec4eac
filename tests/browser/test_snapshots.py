"""A snapshot from its start to its end, beside a fake of the Stripe API."""

from __future__ import annotations

import re

from playwright.async_api import expect

from relay.dev.stripe_api import FakeStripe
from relay.store.engine import Database
from tests.admin.with_stripe import add_source, desk, read_pages, stripe
from tests.admin.world import Served
from tests.browser.hands import REASON, act, main, row
from tests.browser.visit import Visits

__all__ = ["desk", "stripe"]


async def test_one_is_started_paused_resumed_and_watched(
    desk: Served, database: Database, stripe: FakeStripe, visit: Visits
) -> None:
    await add_source(database, "shop", "customer", "charge")
    page = await visit(desk)
    await page.goto("/snapshots")
    await page.get_by_role("button", name="Start one …").click()
    await page.get_by_label("customer", exact=True).check()
    await act(page, "Start")
    await expect(page).to_have_url(re.compile(r"/snapshots/[0-9a-f]{12}$"))
    await expect(main(page)).to_contain_text("running")
    await expect(row(page, "charge")).to_have_count(0)
    await act(page, "Pause")
    await expect(main(page)).to_contain_text("paused")
    await act(page, "Resume")
    await expect(main(page)).to_contain_text("running")
    await expect(page.locator("#live-status")).to_have_text("Live")
    await read_pages(database, stripe)
    # The page finds out by itself.
    await expect(main(page)).to_contain_text("finished")
    await expect(row(page, "customer", "100 %")).to_be_visible()
    await page.get_by_role("link", name="Snapshots").click()
    await expect(row(page, "shop", "finished", "250")).to_be_visible()


async def test_one_is_cancelled(desk: Served, database: Database, visit: Visits) -> None:
    await add_source(database, "shop", "customer")
    page = await visit(desk, name="Ana")
    await page.goto("/snapshots/new?source=shop")
    await act(page, "Start")
    await act(page, "Cancel")
    await expect(main(page)).to_contain_text("cancelled")
    await expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    await page.goto("/operator-log")
    await expect(row(page, "snapshot.cancel", "Ana (dashboard)", REASON)).to_be_visible()
