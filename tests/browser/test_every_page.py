"""Every page, in two sizes and two colour schemes: what axe-core finds, and what does not fit.

What was found is written to `build/axe-report.md`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page

from tests.admin.world import VIEWER, Served, served
from tests.browser.accessibility import IMPACTS, Look, looks, too_wide
from tests.browser.furnished import Furnished, furnished
from tests.browser.pages import EMPTY, NO_PAGES, OF_VIEWERS, PAGES, PROBLEMS, routes_of
from tests.browser.visit import Visits
from tests.support.databases import Databases

_REPORT = Path(__file__).resolve().parents[2] / "build" / "axe-report.md"
_ALL = [path for paths in PAGES.values() for path in paths if path != "/login"]


@pytest_asyncio.fixture(scope="module")
async def full(postgres: Databases, kafka: str) -> AsyncIterator[Furnished]:
    """One for all pages: looking changes nothing."""
    url = await postgres.create()
    async with furnished(url, kafka) as made:
        yield made
    await postgres.drop(url)


class Report:
    """A table of what was found: a line for each page."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, name: str, seen: list[Look]) -> None:
        counts = [str(sum(look.count(impact) for look in seen)) for impact in IMPACTS]
        variants = ", ".join(f"{look.width} {look.scheme}" for look in seen)
        self.lines.append(f"| `{name}` | {variants} | {' | '.join(counts)} |")

    def write(self) -> None:
        _REPORT.parent.mkdir(exist_ok=True)
        head = f"| page | px and scheme | {' | '.join(IMPACTS)} |\n|---|---|---|---|---|---|\n"
        _REPORT.write_text(head + "\n".join(self.lines) + "\n")


@pytest.fixture(scope="module")
def report() -> Iterator[Report]:
    made = Report()
    yield made
    made.write()


async def check(page: Page, name: str, report: Report) -> None:
    """Nothing is wrong with an open page, however it is looked at."""
    seen = [look async for look in looks(page)]
    report.add(name, seen)
    assert [told for look in seen for told in look.told()] == []
    assert page.viewport_size == {"width": 360, "height": 900}
    assert await too_wide(page) == []


def test_no_page_is_forgotten(dashboard: Served) -> None:
    assert routes_of(dashboard.dashboard) - NO_PAGES.keys() == PAGES.keys()


@pytest.mark.parametrize("path", _ALL)
async def test_a_page(full: Furnished, visit: Visits, report: Report, path: str) -> None:
    page = await visit(full.served)
    await page.goto(path.format_map(full.at))
    await check(page, path, report)


@pytest.mark.parametrize("path", PROBLEMS)
async def test_a_problem(full: Furnished, visit: Visits, report: Report, path: str) -> None:
    page = await visit(full.served)
    answer = await page.goto(path)
    assert answer is not None
    assert answer.status >= 400
    await check(page, path, report)


@pytest.mark.parametrize("path", OF_VIEWERS)
async def test_a_page_of_viewers(full: Furnished, visit: Visits, report: Report, path: str) -> None:
    page = await visit(full.served, VIEWER)
    await page.goto(path.format_map(full.at))
    await check(page, f"{path} (viewer)", report)


@pytest.mark.parametrize("path", EMPTY)
async def test_a_page_without_data(
    dashboard: Served, visit: Visits, report: Report, path: str
) -> None:
    page = await visit(dashboard)
    await page.goto(path)
    await check(page, f"{path} (without data)", report)


async def test_the_login(dashboard: Served, visit: Visits, report: Report) -> None:
    page = await visit(dashboard, None)
    await page.goto("/login")
    await check(page, "/login", report)
    await page.get_by_label("Token").fill("wrong")
    await page.get_by_role("button", name="Log in").click()
    await page.get_by_role("alert").wait_for()
    await check(page, "/login (wrong token)", report)


async def test_where_nobody_has_to_log_in(
    database_url: str, source_id: int, visit: Visits, report: Report
) -> None:
    async with served(database_url) as made:
        page = await visit(made, None)
        await page.goto("/")
        await check(page, "/ (open)", report)


async def test_where_the_rules_find_something(dashboard: Served, visit: Visits) -> None:
    """Whoever finds nothing may be blind."""
    page = await visit(dashboard)
    await page.goto("/")
    await page.evaluate(
        """() => {
            const search = document.querySelector("#search");
            search.labels[0].remove();
            search.removeAttribute("placeholder");
            const main = document.querySelector("main");
            main.append("w".repeat(500));
            main.style.color = "#777";
        }"""
    )
    found = [look async for look in looks(page)]
    assert all("color-contrast" in " ".join(look.told()) for look in found)
    assert [look.count("critical") for look in found] == [1, 0, 1, 0]
    assert await too_wide(page) != []
