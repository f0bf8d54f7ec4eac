"""What a hand does on a page, and where an eye looks."""

from __future__ import annotations

import asyncpg
from playwright.async_api import Locator, Page

from tests.browser.furnished import body_of
from tests.store.rows import new_event, store

REASON = "asked for in #4711"


def main(page: Page) -> Locator:
    return page.locator("#main")


def row(page: Page, *texts: str) -> Locator:
    """The rows of a table that have all of these in them."""
    found = page.get_by_role("row")
    for text in texts:
        found = found.filter(has_text=text)
    return found


async def act(page: Page, button: str, reason: str = REASON) -> None:
    """Give the reason beside a button, and press it."""
    form = page.locator("form", has=page.get_by_role("button", name=button, exact=True))
    await form.get_by_label("Reason").fill(reason)
    await form.get_by_role("button", name=button, exact=True).click()


async def one(
    pg: asyncpg.Connection, source_id: int, event_id: str = "evt_1", object_id: str = "cus_1"
) -> int:
    """An event that waits; its inbox id."""
    (inbox_id,) = await store(
        pg,
        new_event(source_id, event_id, object_id=object_id, body=body_of(event_id, object_id)),
    )
    return inbox_id
