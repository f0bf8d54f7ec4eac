"""WCAG 2.2 AA by axe-core on every page: wide and narrow, in light and in dark."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from confluent_kafka import Producer
from litestar import Litestar
from playwright.async_api import Browser, Page

from tests.admin.world import OPERATOR, Served
from tests.browser.tab import NARROW, WIDE, Tab, new_tab
from tests.store.rows import bury, deliver, fail, leave_out, new_event, store

REPORTS = Path("build") / "axe"
"""Where a run leaves what it found, a table for each window."""
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

# What is no page: files, parts of pages, what is answered with another page.
_NOT_PAGES = ("/api/", "/parts/", "/static/", "/schema", "/search", "/events/{inbox_id:str}/body")


@pytest_asyncio.fixture
async def places(
    desk: Served, pg: asyncpg.Connection, source_id: int, kafka: str, topic_prefix: str
) -> dict[str, list[str]]:
    """Where each page is to be seen, with something of everything on it."""
    made = [new_event(source_id, f"evt_{n}", object_id=f"cus_{n % 3}") for n in range(9)]
    body = json.dumps(
        {
            "id": "evt_changed",
            "data": {
                "object": {"id": "cus_1", "email": "new@example.com", "name": "x" * 300},
                "previous_attributes": {"email": "old@example.com"},
            },
        }
    ).encode()
    made.append(new_event(source_id, "evt_changed", body=body))
    ids = await store(pg, *made)
    await deliver(pg, ids[0])
    await leave_out(pg, ids[1])
    await fail(pg, ids[2])
    await bury(pg, ids[3], ids[4], ids[5])
    await bury(pg, ids[6], code="no_route")
    await pg.execute("ALTER TABLE relay.receipt DISABLE TRIGGER USER")
    topic = f"{topic_prefix}customer"
    await pg.execute(
        'UPDATE relay.receipt SET topic = $1, "offset" = 0 WHERE topic IS NOT NULL', topic
    )
    await asyncio.to_thread(produce, kafka, topic)
    api = desk.client(OPERATOR)
    why = {"reason": "to have something to look at"}
    await api.post(f"/api/events/{ids[3]}/replay", json=why)
    begun = await api.post("/api/replays", json=why | {"of": "dead-letters", "error": "no_route"})
    snapshot = await api.post("/api/snapshots", json=why | {"source": "shop"})
    assert (begun.status_code, snapshot.status_code) == (202, 201), (begun.text, snapshot.text)
    return {
        "/login": ["/login"],
        "/": ["/"],
        "/events": ["/events", "/events?state=dead", "/events?type=none.*", "/events?since=never"],
        "/events/{inbox_id:str}": [f"/events/{each}" for each in (ids[0], *ids[2:4], ids[-1])],
        "/events/{inbox_id:str}/records": [f"/events/{each}/records" for each in ids[:2]],
        "/objects": ["/objects?id=cus_1"],
        "/dead-letters": ["/dead-letters", "/dead-letters?error=none"],
        "/dead-letters/discard": ["/dead-letters/discard", "/dead-letters/discard?error=none"],
        "/operator-log": ["/operator-log"],
        "/replays": ["/replays"],
        "/replays/new": ["/replays/new?of=dead-letters", "/replays/new?of=events"],
        "/replays/{replay_id:str}": [f"/replays/{begun.json()['replay_id']}"],
        "/sources": ["/sources"],
        "/sources/new": ["/sources/new"],
        "/sources/{name:str}": ["/sources/shop"],
        "/sources/{name:str}/edit": ["/sources/shop/edit"],
        "/snapshots": ["/snapshots"],
        "/snapshots/new": ["/snapshots/new?source=shop"],
        "/snapshots/{snapshot_id:str}": [f"/snapshots/{snapshot.json()['id']}"],
    }


def produce(kafka: str, topic: str) -> None:
    """The record that the receipt of the first event tells of."""
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(
        topic, b'{"id": "cus_0"}', b'{"id":"cus_1"}', partition=0, headers={"_event_id": "evt_0"}
    )
    assert producer.flush(30) == 0


async def test_every_page_is_looked_at(desk: Served, places: dict[str, list[str]]) -> None:
    app = desk.dashboard.app([])._app  # type: ignore[attr-defined]
    assert isinstance(app, Litestar)
    pages = {
        route.path_format.replace("}", ":str}")
        for route in app.routes
        if "GET" in getattr(route, "methods", ())
    }
    found = {each for each in pages if not each.startswith(_NOT_PAGES)}
    assert found == set(places)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_everybody_can_use_it(
    browser: Browser,
    desk: Served,
    places: dict[str, list[str]],
    size: dict[str, int],
    colours: str,
) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    wide: dict[str, int] = {}
    async with new_tab(browser, desk.base_url, viewport=size, color_scheme=colours) as tab:
        await look_at("/login", tab, found, wide)
        await tab.log_in()
        for path in [path for paths in places.values() for path in paths if path != "/login"]:
            await look_at(path, tab, found, wide)
    _write_report(size["width"], colours, found)
    bad = {
        path: [f"{each['id']}: {each['help']} {_where(each)}" for each in violations]
        for path, violations in found.items()
        if violations
    }
    assert bad == {}
    assert {path: pixels for path, pixels in wide.items() if pixels > 0} == {}


async def look_at(
    path: str, tab: Tab, found: dict[str, list[dict[str, Any]]], wide: dict[str, int]
) -> None:
    await tab.go(path)
    found[path] = await violations_of(tab.page)
    wide[path] = await tab.too_wide()


async def violations_of(page: Page) -> list[dict[str, Any]]:
    options = {"runOnly": STANDARDS, "resultTypes": ["violations"]}
    results = await Axe().run(page, options=options)
    found: list[dict[str, Any]] = results.response["violations"]
    return found


def _where(violation: dict[str, Any]) -> list[str]:
    return [node["html"][:200] for node in violation["nodes"][:3]]


def _write_report(width: int, colours: str, found: dict[str, list[dict[str, Any]]]) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# axe-core: {width} px, {colours}",
        "",
        "| page | minor | moderate | serious | critical |",
    ]
    lines.append("|---|---|---|---|---|")
    for path, violations in found.items():
        counts = [
            sum(each["impact"] == impact for each in violations)
            for impact in ("minor", "moderate", "serious", "critical")
        ]
        lines.append(f"| {path} | {' | '.join(map(str, counts))} |")
    (REPORTS / f"{width}-{colours}.md").write_text("\n".join(lines) + "\n")
