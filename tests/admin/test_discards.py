"""Many dead letters are given up at once, those that were counted and no others."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from relay.admin import discards
from tests.admin.reader import Page
from tests.admin.world import OPERATOR, VIEWER, Served, csrf_token
from tests.store.rows import bury, new_event, states, store

WHY = {"reason": "nobody wants them"}


async def dead_ones(pg: asyncpg.Connection, source_id: int, count: int, code: str) -> list[int]:
    first = await pg.fetchval("SELECT count(*) FROM relay.inbox")
    ids = await store(pg, *(new_event(source_id, f"evt_{first + n}") for n in range(count)))
    await bury(pg, *ids, code=code)
    return ids


async def discard(desk: Served, status: int = 200, token: str = OPERATOR, **wanted: Any) -> Any:
    answer = await desk.client(token).post("/api/dead-letters/discard", json=wanted)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_those_that_fit_are_closed_and_written_down(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discards, "BATCH", 2)
    ids = await dead_ones(pg, source_id, 5, "too_large")
    others = await dead_ones(pg, source_id, 2, "no_route")
    asked = await discard(dashboard, error="too_large", dry_run=True)
    assert (asked["matched"], asked["discarded"], asked["left"]) == (5, 0, 5)
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0
    done = await discard(dashboard, error="too_large", **WHY)
    assert (done["matched"], done["discarded"], done["left"]) == (5, 5, 0)
    assert await states(pg, *ids) == ["skipped"] * 5
    assert await states(pg, *others) == ["dead"] * 2
    log = await pg.fetch("SELECT action, reason, details FROM relay.operator_log ORDER BY id")
    assert [(row["action"], row["reason"]) for row in log] == [
        ("dead_letter.discard", WHY["reason"])
    ] * 3
    assert log[0]["details"]["filter"] == {"error": "too_large"}
    assert "fits any more" in (await discard(dashboard, 409, error="too_large", **WHY))["detail"]


async def test_what_died_after_the_question_is_left_alone(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await dead_ones(pg, source_id, 2, "too_large")
    page = Page(
        (await dashboard.client(OPERATOR).get("/dead-letters/discard?error=too_large")).text
    )
    assert page.faults == []
    assert "Discard 2 dead letters?" in page.text
    (up_to,) = [a["value"] for a in page.tags("input") if a.get("name") == "up_to"]
    later = await dead_ones(pg, source_id, 1, "too_large")
    browser = await dashboard.browser()
    token = await csrf_token(browser, "/dead-letters/discard?error=too_large")
    form = WHY | {"up_to": up_to, "csrf_token": token, "error": "too_large"}
    answer = await browser.post("/dead-letters/discard", data=form)
    assert answer.headers["location"] == "/dead-letters?error=too_large&discarded=2&left=0"
    assert await states(pg, *ids, *later) == ["skipped", "skipped", "dead"]
    told = Page((await browser.get(answer.headers["location"])).text)
    assert told.faults == []
    assert "2 dead letters were discarded" in told.text


async def test_what_there_was_no_time_for_is_told(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await dead_ones(pg, source_id, 3, "too_large")
    monkeypatch.setattr(discards, "_BEGIN_SECONDS", 0.0)
    done = await discard(dashboard, error="too_large", **WHY)
    assert (done["discarded"], done["left"]) == (0, 3)
    assert await states(pg, *ids) == ["dead"] * 3
    told = Page((await dashboard.client(OPERATOR).get("/dead-letters?discarded=0&left=3")).text)
    assert "no time for 3 more" in told.text


async def test_it_asks_for_a_reason_and_for_the_right(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await dead_ones(pg, source_id, 1, "too_large")
    await discard(dashboard, 400, error="too_large")
    await discard(dashboard, 403, VIEWER, **WHY)
    await discard(dashboard, 400, source="none", **WHY)
    browser = await dashboard.browser()
    assert (await browser.post("/dead-letters/discard", data=WHY)).status_code == 403
    shown = Page((await dashboard.client(VIEWER).get("/dead-letters/discard?error=no_route")).text)
    assert [each for each in shown.tags("button") if each.get("class") == "risky"] == []
    assert await states(pg, *ids) == ["dead"]


@pytest.mark.parametrize("given", [{}, {"error": " "}])
async def test_it_asks_for_a_choice(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, given: dict[str, str]
) -> None:
    ids = await dead_ones(pg, source_id, 1, "too_large")
    assert "filter them" in (await discard(dashboard, 400, **given, **WHY))["detail"]
    assert "filter them" in (await discard(dashboard, 400, dry_run=True, **given))["detail"]
    asked = await dashboard.client(OPERATOR).get("/dead-letters/discard", params=given)
    assert asked.status_code == 400
    assert await states(pg, *ids) == ["dead"]
