"""A source is made, changed and given a new key; and what is dead is given up at once."""

from __future__ import annotations

import asyncpg
from playwright.async_api import expect

from tests.admin.with_stripe import KEY
from tests.admin.world import Served, served
from tests.browser.hands import REASON, act, main
from tests.browser.visit import Visits
from tests.store.rows import bury, new_event, states, store


async def test_a_source_is_made_changed_and_given_a_new_key(
    database_url: str, pg: asyncpg.Connection, visit: Visits
) -> None:
    async with served(database_url, encryption_keys=(KEY,)) as made:
        page = await visit(made, None)
        await page.goto("/sources")
        await page.get_by_role("link", name="New source …").click()
        await page.locator("#name").fill("shop-eu")
        await page.locator("#signing_secrets").fill("whsec_" + "a" * 32)
        await page.locator("#these").check()
        invoice = page.get_by_role("checkbox", name="invoice", exact=True)
        await invoice.check()
        await page.locator("#others").fill("v2")
        await page.locator("#reason").fill(REASON)
        await page.get_by_role("button", name="Make it").click()
        await expect(main(page)).to_contain_text("Source shop-eu was made")
        await expect(main(page)).to_contain_text("/webhooks/src_")
        assert "whsec_" not in await page.content()

        await page.get_by_role("link", name="Go on to the source").click()
        await page.get_by_role("link", name="Change the settings …").click()
        await expect(invoice).to_be_checked()
        await invoice.uncheck()
        await page.locator("#reason").fill(REASON)
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("status")).to_be_visible()
        resources = await pg.fetchval("SELECT resources FROM relay.source")
        assert "v2" in resources
        assert "invoice" not in resources

        await act(page, "Make a new key")
        await expect(main(page)).to_contain_text("New key of shop-eu")
        assert await pg.fetchval("SELECT count(*) FROM relay.api_key") == 2


async def test_all_dead_letters_that_fit_are_discarded(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, visit: Visits
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(4)))
    await bury(pg, *ids[:3])
    await bury(pg, ids[3], code="no_route")
    page = await visit(dashboard)
    await page.goto("/dead-letters?error=too_large")
    await page.get_by_role("link", name="discard all that fit").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Discard 3 dead letters?")
    await act(page, "Discard them")
    await expect(page.get_by_role("status")).to_contain_text("3 dead letters were discarded")
    assert await states(pg, *ids) == ["skipped"] * 3 + ["dead"]
