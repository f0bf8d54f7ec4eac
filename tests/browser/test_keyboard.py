"""With the keyboard alone: everything can be reached, and one sees where one is."""

from __future__ import annotations

import re

import asyncpg
from playwright.async_api import Page, expect

from tests.admin.world import OPERATOR, Served
from tests.browser.hands import REASON, main, one
from tests.browser.visit import Visits
from tests.store.rows import states

_MOST_TABS = 60


async def focused(page: Page) -> str:
    """What has the focus, in a word; fails where it cannot be seen."""
    found = await page.evaluate(
        """() => {
            const here = document.activeElement, style = getComputedStyle(here);
            const box = here.getBoundingClientRect();
            return {
                name: here === document.body ? "BODY" : here.id || here.innerText.trim(),
                outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
                width: box.width,
                height: box.height,
                inside: box.right > 0 && box.bottom > 0
                    && box.left < innerWidth && box.top < innerHeight,
            };
        }"""
    )
    if found["name"] != "BODY":
        assert found["outline"] >= 2, found
        assert found["inside"], found
        assert min(found["width"], found["height"]) > 1, found
    name: str = found["name"]
    return name


async def tab_to(page: Page, name: str) -> list[str]:
    """Press Tab until something has the focus; what was passed on the way."""
    passed: list[str] = []
    for _ in range(_MOST_TABS):
        await page.keyboard.press("Tab")
        passed.append(await focused(page))
        if passed[-1] == name:
            return passed
    raise AssertionError(f"{name} is not reached: {passed}")


async def test_from_the_login_to_an_action(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id, "evt_keys", "cus_keys")
    page = await visit(dashboard, None)
    await page.goto("/")
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.keyboard.type(OPERATOR)
    await tab_to(page, "name")
    await page.keyboard.type("Ana")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await tab_to(page, "search")
    await page.keyboard.type("evt_keys")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{dashboard.base_url}/events/{inbox_id}")
    await tab_to(page, "skip-reason")
    await page.keyboard.type(REASON)
    await tab_to(page, "Skip")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_contain_text("The event was skipped.")
    assert await states(pg, inbox_id) == ["skipped"]


async def test_the_top_of_a_page_can_be_skipped(dashboard: Served, visit: Visits) -> None:
    page = await visit(dashboard)
    await page.goto("/events")
    await page.keyboard.press("Tab")
    assert await focused(page) == "Skip to the content"
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.keyboard.press("Tab")
    assert await focused(page) == "event_id"


async def test_everything_on_a_page_is_passed_in_the_order_in_which_it_is_read(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id)
    page = await visit(dashboard)
    await page.goto(f"/events/{inbox_id}")
    count = await page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")]
            .filter((each) => each.type !== "hidden" && each.checkVisibility()).length"""
    )
    passed = [name for name in await tab_to(page, "BODY") if name != "BODY"]
    assert len(passed) == count, passed
    places = [passed.index(name) for name in ("search", "Log out", "retry-reason", "Skip")]
    assert places == sorted(places)


async def test_a_wide_table_is_scrolled_with_the_keys(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    await one(pg, source_id)
    page = await visit(dashboard, size=(360, 800))
    await page.goto("/events")
    region = page.get_by_role("region", name=re.compile("newest"))
    await region.focus()
    await page.keyboard.press("ArrowRight")
    await page.wait_for_function("document.activeElement.scrollLeft > 0")
    await expect(main(page)).to_be_visible()
