"""Everything works where no script runs; to see what is new one loads the page again."""

from __future__ import annotations

import re

import asyncpg
from playwright.async_api import Page, expect

from relay.dev.stripe_api import FakeStripe
from relay.store.engine import Database
from tests.admin.with_stripe import add_source, settings_beside
from tests.admin.world import OPERATOR, Served, served
from tests.browser.hands import REASON, act, main, one, row
from tests.browser.visit import Visits
from tests.store.rows import bury, states


async def tells_how_to_see_more(page: Page) -> None:
    # Playwright keeps scripts from running, but the parser takes them as allowed: it shows no
    # noscript.
    told = await page.locator("noscript").text_content()
    assert told is not None
    assert "Load it again" in told


async def test_from_the_login_to_the_logout(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id)
    await bury(pg, inbox_id)
    page = await visit(dashboard, None, script=False)
    await page.goto("/")
    await page.get_by_label("Token").fill(OPERATOR)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await tells_how_to_see_more(page)
    await page.get_by_role("link", name="1 event is dead").click()
    await page.get_by_label("Error code").fill("too_large")
    await page.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(re.compile("error=too_large"))
    await page.get_by_role("link", name="evt_1").click()
    await act(page, "Discard")
    await expect(main(page)).to_contain_text("The dead letter was discarded.")
    assert await states(pg, inbox_id) == ["skipped"]
    await page.get_by_role("search").get_by_role("textbox").fill("cus_1")
    await page.get_by_role("button", name="Go", exact=True).click()
    await expect(row(page, "evt_1", "skipped")).to_be_visible()
    await page.get_by_role("link", name="Operator log").click()
    await expect(row(page, REASON)).to_be_visible()
    await page.get_by_role("button", name="Log out").click()
    await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_a_replay_of_many(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    await bury(pg, await one(pg, source_id))
    page = await visit(dashboard, script=False)
    await page.goto("/dead-letters")
    await page.get_by_role("link", name="send all that fit again").click()
    await act(page, "Send them again")
    await expect(main(page)).to_contain_text("0 of 1")
    while await dashboard.dashboard.replayer.run_once():
        pass
    await tells_how_to_see_more(page)
    await page.reload()
    await expect(main(page)).to_contain_text("1 of 1")
    await expect(main(page)).to_contain_text("all queued")


async def test_a_snapshot(database_url: str, database: Database, visit: Visits) -> None:
    async with (
        FakeStripe({"customer": 20}) as stripe,
        served(database_url, **settings_beside(stripe)) as desk,
    ):
        await add_source(database, "shop", "customer")
        page = await visit(desk, script=False)
        await page.goto("/snapshots")
        await page.get_by_role("button", name="Start one …").click()
        await act(page, "Start")
        for button, state in (("Pause", "paused"), ("Resume", "running"), ("Cancel", "cancelled")):
            await act(page, button)
            await expect(main(page)).to_contain_text(state)
