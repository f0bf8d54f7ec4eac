"""Snapshots from the pages and by the API, beside a fake of the Stripe API."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from relay.dev.stripe_api import FakeStripe
from relay.store.engine import Database
from tests.admin.reader import Page
from tests.admin.with_stripe import add_source, desk, read_pages, stripe
from tests.admin.world import OPERATOR, VIEWER, Served, csrf_token

__all__ = ["desk", "stripe"]

WHY = {"reason": "the initial load"}


async def page_of(desk: Served, path: str, token: str = OPERATOR, status: int = 200) -> Page:
    answer = await desk.client(token).get(path)
    assert answer.status_code == status, answer.text
    page = Page(answer.text, is_part=path.startswith("/parts/"))
    assert page.faults == [], path
    return page


async def press(desk: Served, page: str, action: str, **fields: Any) -> str:
    """Fill in a form of a page as a browser does; where it leads to."""
    browser = await desk.browser()
    form = WHY | fields | {"csrf_token": await csrf_token(browser, page)}
    answer = await browser.post(action, data=form)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"])


async def test_a_person_starts_one_and_watches_it(
    desk: Served, database: Database, stripe: FakeStripe, pg: asyncpg.Connection
) -> None:
    await add_source(database, "shop", "customer", "charge")
    text = (await page_of(desk, "/snapshots")).text
    assert "There was none yet." in text
    form = await page_of(desk, "/snapshots/new?source=shop")
    ticks = [a["value"] for a in form.tags("input") if a.get("type") == "checkbox"]
    assert ticks[:2] == ["charge", "customer"]
    there = await press(
        desk, "/snapshots/new?source=shop", "/snapshots", source="shop", resource=["customer"]
    )
    shown = await page_of(desk, there)
    assert "running" in shown.text
    assert {"Pause", "Cancel"} <= set(shown.text.split())
    await read_pages(database, stripe)
    for path in (there, f"/parts{there}"):
        text = (await page_of(desk, path)).text
        assert "finished" in text
        assert "Objects 250 in" in text
        assert "100 %" in text
    assert "shop finished 250" in (await page_of(desk, "/snapshots")).text
    (row,) = await pg.fetch("SELECT who, action, target, reason FROM relay.operator_log")
    assert tuple(row) == ("dashboard", "snapshot.start", there.rpartition("/")[2], WHY["reason"])


async def test_one_is_paused_resumed_and_cancelled(desk: Served, database: Database) -> None:
    await add_source(database, "shop", "customer")
    client = desk.client(OPERATOR)
    answer = await client.post("/api/snapshots", json=WHY | {"source": "shop"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["warnings"] == []
    name = answer.json()["id"]
    there = f"/snapshots/{name}"
    for action, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert await press(desk, there, f"{there}/{action}") == there
        found = (await client.get(f"/api/snapshots/{name}")).json()["snapshot"]
        assert found["state"] == state
    for action in ("pause", "resume", "cancel"):
        refused = await client.post(f"/api/snapshots/{name}/{action}", json=WHY)
        assert refused.status_code == 409
        assert f"is cancelled: nothing to {action}" in refused.json()["detail"]
    assert "What you can do" not in (await page_of(desk, there)).text
    (listed,) = (await client.get("/api/snapshots?source=shop")).json()["snapshots"]
    assert listed["id"] == name
    assert (await client.get("/api/snapshots?source=other")).json()["snapshots"] == []
    log = (await client.get("/api/operator-log")).json()["entries"]
    assert [each["action"] for each in log] == [
        f"snapshot.{each}" for each in ("cancel", "resume", "pause", "start")
    ]


async def test_a_window_and_resources_are_taken(
    desk: Served, database: Database, stripe: FakeStripe
) -> None:
    await add_source(database, "shop", "customer", "charge")
    wanted = {"source": "shop", "resources": ["charge"], "created_before": "2012-01-01"}
    client = desk.client(OPERATOR)
    name = (await client.post("/api/snapshots", json=WHY | wanted)).json()["id"]
    await read_pages(database, stripe)
    shown = (await client.get(f"/api/snapshots/{name}")).json()
    assert shown["snapshot"]["objects"] == 0
    assert [each["resource"] for each in shown["progress"]] == ["charge"]


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ({"source": "nobody"}, 400, "no source named 'nobody'"),
        ({"source": "keyless"}, 400, "has no Stripe key"),
        ({"source": "refused"}, 409, "Stripe refuses the key of source refused"),
        ({"source": "shop", "resources": ["invoice"]}, 400, "not in the schema of source shop"),
        ({"source": "shop", "resources": ["customr"]}, 400, "did you mean customer?"),
        ({"source": "shop", "created_after": "yesterday"}, 400, "created_after"),
        ({"source": "shop", "reason": ""}, 400, "reason"),
        ({"source": "shop", "per_customer": True}, 400, "customer by customer"),
        ({"source": "\x00"}, 400, "no source named"),
    ],
)
async def test_what_stands_in_the_way_is_told(
    desk: Served,
    database: Database,
    pg: asyncpg.Connection,
    wanted: dict[str, Any],
    status: int,
    told: str,
) -> None:
    await add_source(database, "shop", "customer")
    await add_source(database, "keyless", "customer", key=None)
    await add_source(database, "refused", "customer", key="sk_test_51NobodyKnowsThis")
    answer = await desk.client(OPERATOR).post("/api/snapshots", json=WHY | wanted)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["detail"]
    assert await pg.fetchval("SELECT count(*) FROM relay.snapshot") == 0


async def test_there_is_none_of_that_name(desk: Served, database: Database) -> None:
    await page_of(desk, "/snapshots/new?source=nobody", status=404)
    await page_of(desk, "/snapshots/abc", status=404)
    client = desk.client(OPERATOR)
    for path in ("abc", "%00", "x" * 1000):
        assert (await client.get(f"/api/snapshots/{path}")).status_code == 404
        answer = await client.post(f"/api/snapshots/{path}/pause", json=WHY)
        assert answer.status_code == 404


async def test_a_viewer_looks_and_starts_nothing(
    desk: Served, database: Database, pg: asyncpg.Connection
) -> None:
    await add_source(database, "shop", "customer")
    client = desk.client(OPERATOR)
    name = (await client.post("/api/snapshots", json=WHY | {"source": "shop"})).json()["id"]
    for path in ("/snapshots", f"/snapshots/{name}", "/snapshots/new?source=shop"):
        assert "Reason" not in (await page_of(desk, path, VIEWER)).text
    viewer = desk.client(VIEWER)
    for path in ("/api/snapshots", f"/api/snapshots/{name}/cancel"):
        answer = await viewer.post(path, json=WHY | {"source": "shop"})
        assert answer.status_code == 403
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 1
