"""A person before the browser, and what must never happen to one: a dialog, an error of a script,
a violation of the content policy, a request to anywhere else.
"""

from __future__ import annotations

from typing import Any

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request

from tests.admin.world import OPERATOR, Served

PATIENCE_MS = 60_000
"""For whatever playwright waits for; nothing is ever expected within a time."""
SIZE = (1280, 900)


class Visits:
    """People who look at dashboards; ``problems`` is what happened to them and must not."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.problems: list[str] = []

    async def __call__(
        self,
        served: Served,
        token: str | None = OPERATOR,
        *,
        name: str = "",
        size: tuple[int, int] = SIZE,
        script: bool = True,
        **options: Any,
    ) -> Page:
        """A page of somebody who has logged in, or of a stranger where ``token`` is None."""
        context = await self._browser.new_context(
            base_url=served.base_url,
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=script,
            **options,
        )
        self._contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        if token is not None:
            answer = await context.request.post("/login", form={"token": token, "name": name})
            assert answer.ok, await answer.text()
        self._watch(context, served.base_url)
        return await context.new_page()

    async def close(self) -> None:
        for each in self._contexts:
            await each.close()

    def _watch(self, context: BrowserContext, base_url: str) -> None:
        async def dismiss(dialog: Dialog) -> None:
            self.problems.append(f"a dialog: {dialog.message}")
            await dialog.dismiss()

        def listen(message: ConsoleMessage) -> None:
            # The browser notes every answer of 4xx, too; those are part of a story.
            is_answer = message.text.startswith("Failed to load resource")
            if message.type in ("error", "warning") and not is_answer:
                self.problems.append(f"console: {message.text}")

        def look(request: Request) -> None:
            if not request.url.startswith((f"{base_url}/", "data:")):
                self.problems.append(f"a request to {request.url}")

        context.on("dialog", dismiss)
        context.on("console", listen)
        context.on("request", look)
        context.on("weberror", lambda error: self.problems.append(f"a script: {error.error}"))
