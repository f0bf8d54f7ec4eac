"""Sending many again: what would happen is shown first, and what was begun goes on by itself."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from relay.admin.bulk import Replayer
from relay.store import deadletters, runs
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from tests.admin.reader import Page
from tests.admin.world import OPERATOR, VIEWER, Served, csrf_token
from tests.store.rows import bury, deliver, new_event, store

WHY = {"reason": "the consumer is mended"}


async def dead_ones(pg: asyncpg.Connection, source_id: int, count: int) -> list[int]:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(count)))
    for each in ids:
        await bury(pg, each)
    return list(ids)


async def page_of(dashboard: Served, path: str, token: str = OPERATOR, status: int = 200) -> Page:
    answer = await dashboard.client(token).get(path)
    assert answer.status_code == status, answer.text
    page = Page(answer.text, is_part=path.startswith("/parts/"))
    assert page.faults == [], path
    return page


async def begin(dashboard: Served, **wanted: Any) -> dict[str, Any]:
    answer = await dashboard.client(OPERATOR).post("/api/replays", json=WHY | wanted)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def finish(dashboard: Served) -> None:
    while await dashboard.dashboard.replayer.run_once():
        pass


async def test_a_person_sends_many_again(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead_ones(pg, source_id, 3)
    letters = await page_of(dashboard, "/dead-letters?error=too_large")
    ways = [a["href"] for a in letters.tags("a") if a["href"].startswith("/replays/new")]
    assert ways == ["/replays/new?of=dead-letters&error=too_large"]
    plan = await page_of(dashboard, ways[0])
    assert "Send 3 dead letters again?" in plan.text
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0

    browser = await dashboard.browser()
    form = {"of": "dead-letters", "error": "too_large", **WHY}
    form["csrf_token"] = await csrf_token(browser, ways[0])
    answer = await browser.post("/replays", data=form)
    assert answer.status_code == 303, answer.text
    there = answer.headers["location"]
    assert "going on" in (await page_of(dashboard, there)).text
    await finish(dashboard)
    shown = await page_of(dashboard, there)
    assert "all queued" in shown.text
    assert "Queued 3" in shown.text
    assert "Waiting 3" in shown.text
    await page_of(dashboard, f"/parts{there}")
    assert there.rpartition("/")[2] in (await page_of(dashboard, "/replays")).text
    assert await pg.fetchval("SELECT count(DISTINCT replay_id) FROM relay.queue") == 1
    who = await pg.fetch("SELECT DISTINCT who, reason FROM relay.operator_log")
    assert [tuple(row) for row in who] == [("dashboard", WHY["reason"])]


async def test_delivered_events_are_sent_again_by_a_filter(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(4)))
    for each in ids:
        await deliver(pg, each)
    text = (await page_of(dashboard, "/replays/new?of=events&type=customer.*")).text
    assert "Send 4 events again?" in text
    assert "Not paused: shop" in text
    begun = await begin(dashboard, of="events", type="customer.*")
    assert begun["plan"]["matched"] == 4
    await finish(dashboard)
    shown = (await dashboard.client(OPERATOR).get(f"/api/replays/{begun['replay_id']}")).json()
    assert (shown["queued"], shown["is_finished"], shown["in_background"]) == (4, True, True)
    assert shown["progress"] == {"waiting": 4, "delivered": 0, "skipped": 0}
    (listed,) = (await dashboard.client(OPERATOR).get("/api/replays")).json()["replays"]
    assert listed == shown | {"progress": None}


async def test_to_ask_changes_nothing(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead_ones(pg, source_id, 2)
    asked = await begin(dashboard, of="dead-letters", dry_run=True)
    assert asked["replay_id"] is None
    assert (asked["plan"]["matched"], asked["plan"]["looked_at"]) == (2, 2)
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0
    assert await dashboard.dashboard.replayer.run_once() == 0


async def test_only_what_changes_something_needs_a_reason(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead_ones(pg, source_id, 2)
    client = dashboard.client(OPERATOR)
    for of in ("dead-letters", "events"):
        answer = await client.post("/api/replays", json={"of": of, "dry_run": True})
        assert (answer.status_code, answer.json()["replay_id"]) == (202, None), answer.text
        answer = await client.post("/api/replays", json={"of": of})
        assert answer.status_code == 400, answer.text
        assert "reason" in answer.json()["detail"]
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_what_cannot_be_sent_is_told_before(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (first, *_) = await dead_ones(pg, source_id, 3)
    await pg.execute(
        "ALTER TABLE relay.inbox DISABLE TRIGGER USER;"
        f" DELETE FROM relay.inbox WHERE id = {first};"
        " ALTER TABLE relay.inbox ENABLE TRIGGER USER"
    )
    text = (await page_of(dashboard, "/replays/new?of=dead-letters")).text
    assert "Cannot be sent 1: its body is gone: the retention has passed" in text


@pytest.mark.parametrize("how", ["page", "api"])
async def test_it_is_cancelled_with_what_it_has_queued(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, database: Database, how: str
) -> None:
    await dead_ones(pg, source_id, 5)
    replay_id = (await begin(dashboard, of="dead-letters"))["replay_id"]
    operator = Operator("API", WHY["reason"])
    async with database.begin() as connection:
        run = await deadletters.find_run(connection, replay_id)
        assert run is not None
        await deadletters.queue_some(connection, run, operator, limit=2)
    if how == "api":
        answer = await dashboard.client(OPERATOR).post(f"/api/replays/{replay_id}/cancel", json=WHY)
        assert answer.json()["is_cancelled"] is True
    else:
        browser = await dashboard.browser()
        form = WHY | {"csrf_token": await csrf_token(browser, f"/replays/{replay_id}")}
        answer = await browser.post(f"/replays/{replay_id}/cancel", data=form)
        assert answer.status_code == 303, answer.text
    await finish(dashboard)
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 2
    text = (await page_of(dashboard, f"/replays/{replay_id}")).text
    assert "cancelled" in text
    assert "Cancel it" not in text
    again = await dashboard.client(OPERATOR).post(f"/api/replays/{replay_id}/cancel", json=WHY)
    assert again.status_code == 409
    assert "it has queued 2 events" in again.json()["detail"]


async def test_another_process_goes_on_after_a_crash(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, database: Database
) -> None:
    await dead_ones(pg, source_id, 4)
    await begin(dashboard, of="dead-letters")
    other = Replayer(database)
    while await other.run_once():
        pass
    await finish(dashboard)
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 4


async def test_what_was_begun_at_the_command_line_is_left_to_it(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, database: Database
) -> None:
    await dead_ones(pg, source_id, 2)
    async with database.begin() as connection:
        run = await deadletters.prepare(connection, Filter())
        run = await deadletters.begin(connection, run, Operator("ana", None))
    await finish(dashboard)
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    async with database.begin() as connection:
        assert await runs.unfinished_in_background(connection) == []
    assert "--resume" in (await page_of(dashboard, f"/replays/{run.replay_id}")).text


@pytest.mark.parametrize(
    ("wanted", "status", "told"),
    [
        ({"of": "everything"}, 400, "of"),
        ({"of": "dead-letters", "reason": " "}, 400, "reason"),
        ({"of": "dead-letters"}, 409, "No dead letter fits"),
        ({"of": "events"}, 409, "No event fits"),
        ({"of": "events", "state": "pending"}, 400, "pending are not sent again"),
        ({"of": "dead-letters", "state": "delivered"}, 400, "dead letters have no state"),
        ({"of": "events", "source": "nobody"}, 400, "source"),
    ],
)
async def test_what_cannot_be_begun_is_told(
    dashboard: Served, source_id: int, wanted: dict[str, Any], status: int, told: str
) -> None:
    answer = await dashboard.client(OPERATOR).post("/api/replays", json=WHY | wanted)
    assert answer.status_code == status, answer.text
    assert told in answer.json()["detail"]


async def test_there_is_none_of_that_id(dashboard: Served, source_id: int) -> None:
    await page_of(dashboard, "/replays/rpl_x", status=404)
    client = dashboard.client(OPERATOR)
    assert (await client.get("/api/replays/rpl_x")).status_code == 404
    assert (await client.post("/api/replays/rpl_x/cancel", json=WHY)).status_code == 404


async def test_a_viewer_looks_and_begins_nothing(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await dead_ones(pg, source_id, 2)
    text = (await page_of(dashboard, "/replays/new?of=dead-letters", VIEWER)).text
    assert "Send 2 dead letters again?" in text
    assert "Reason" not in text
    client = dashboard.client(VIEWER)
    wanted = WHY | {"of": "dead-letters"}
    assert (await client.post("/api/replays", json=wanted)).status_code == 403
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0
