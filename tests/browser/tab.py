"""One tab of a browser, watched: what a page may never do is found, whatever the test is about."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Request,
    async_playwright,
    expect,
)

from tests.admin.world import OPERATOR

WIDE = {"width": 1440, "height": 1000}
NARROW = {"width": 360, "height": 740}

# The machine may be busy with other tests; whatever takes longer than this does not happen at all.
_PATIENCE_MS = 60_000
expect.set_options(timeout=_PATIENCE_MS)

# How wide the page is beyond the window: what one would have to scroll sideways.
_TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Browser]:
    """Debian's, without a window."""
    # Root has no sandbox for it to put pages into.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """A page, and what was wrong in it: ``faults``."""

    def __init__(self, page: Page, base_url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self._base_url = base_url
        page.on("console", self._on_console)
        page.on("dialog", self._on_dialog)
        page.on("pageerror", lambda error: self.faults.append(f"script failed: {error}"))
        page.on("request", self._on_request)

    async def log_in(self, token: str = OPERATOR, name: str = "ana") -> None:
        await self.go("/login")
        await self.field("Token").fill(token)
        await self.field("Your name").fill(name)
        await self.press("Log in")
        await self.page.wait_for_url(f"{self._base_url}/")

    async def go(self, path: str) -> None:
        await self.page.goto(self._base_url + path)

    def field(self, label: str) -> Locator:
        return self.page.get_by_label(label)

    async def press(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()

    async def follow(self, link: str) -> None:
        await self.page.get_by_role("link", name=link).first.click()

    async def shows(self, text: str) -> None:
        """Wait until it is to be read."""
        await expect(self.page.locator("body")).to_contain_text(text)

    async def heading(self, text: str) -> None:
        """Wait until the page is the one of this name."""
        await expect(self.page.get_by_role("heading", level=1)).to_contain_text(text)

    async def is_at(self, path: str) -> None:
        await expect(self.page).to_have_url(self._base_url + path)

    async def too_wide(self) -> int:
        """Pixels that the page is wider than the window."""
        found: int = await self.page.evaluate(_TOO_WIDE)
        return found

    def _on_console(self, message: ConsoleMessage) -> None:
        # Chromium writes there that a page was answered 4xx, which is what some tests are about.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"on the console: {message.text}")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(f"{self._base_url}/"):
            self.faults.append(f"asked elsewhere: {request.url}")


@asynccontextmanager
async def new_tab(browser: Browser, base_url: str, **options: Any) -> AsyncIterator[Tab]:
    """A tab without a session. ``options`` are those of a context, e.g. the size of the window.

    Raises AssertionError in the end when a script failed, the content security policy was broken,
    a dialog came up or anything was asked of another server.
    """
    context = await browser.new_context(**({"viewport": WIDE} | options))
    context.set_default_timeout(_PATIENCE_MS)
    try:
        tab = Tab(await context.new_page(), base_url)
        yield tab
        assert tab.faults == []
    finally:
        await context.close()
