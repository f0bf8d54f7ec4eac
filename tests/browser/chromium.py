"""Debian's Chromium, driven by playwright."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright


@asynccontextmanager
async def chromium(program: str) -> AsyncIterator[Browser]:
    """One without a window, which ends with us."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program,
            # Chromium's sandbox refuses to work for root.
            chromium_sandbox=os.geteuid() != 0,
            # /dev/shm is small in containers, and grey edges of letters make small pictures.
            args=["--disable-dev-shm-usage", "--disable-lcd-text", "--font-render-hinting=none"],
        )
        try:
            yield browser
        finally:
            await browser.close()
