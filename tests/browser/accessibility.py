"""What axe-core finds on a page, in each size and colour scheme."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Page

_AXE: Final = AXE_FILE_PATH.read_text("utf-8")
_RULES: Final = {
    "runOnly": [
        "wcag2a",
        "wcag2aa",
        "wcag21a",
        "wcag21aa",
        "wcag22a",
        "wcag22aa",
        "best-practice",
    ],
    "resultTypes": ["violations"],
}
_OF_COLOUR: Final = {
    "runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]},
    "resultTypes": ["violations"],
}
"""All that the dark scheme can change: it has other colours and nothing else."""
WIDTHS: Final = (1440, 360)
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
IMPACTS: Final = ("minor", "moderate", "serious", "critical")


class Look:
    """A page as it is in one size and colour scheme, and what is wrong with that."""

    def __init__(self, width: int, scheme: str, findings: list[dict[str, Any]]) -> None:
        self.width = width
        self.scheme = scheme
        self.findings = findings

    def count(self, impact: str) -> int:
        """Places, and not only rules."""
        return sum(len(each["nodes"]) for each in self.findings if each["impact"] == impact)

    def told(self) -> list[str]:
        return [
            f"{self.width} px, {self.scheme}: {each['impact']}, {each['id']} ({each['help']}):"
            f" {node['html'][:200]} {node['failureSummary']}"
            for each in self.findings
            for node in each["nodes"]
        ]


async def looks(page: Page) -> AsyncIterator[Look]:
    """The open page in each of the sizes and schemes."""
    await page.evaluate(_AXE)
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme)
            rules = _RULES if scheme == "light" else _OF_COLOUR
            found = await page.evaluate("(rules) => axe.run(document, rules)", rules)
            yield Look(width, scheme, found["violations"])


async def too_wide(page: Page) -> list[str]:
    """The elements that have the whole page scroll sideways; none where it does not."""
    found: list[str] = await page.evaluate(
        """() => {
            const root = document.documentElement;
            if (root.scrollWidth <= root.clientWidth) return [];
            return [...document.querySelectorAll("body *")]
                .filter((each) => each.getBoundingClientRect().right > root.clientWidth)
                .map((each) => each.outerHTML.slice(0, 120));
        }"""
    )
    return found
