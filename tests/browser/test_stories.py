"""What people do at the dashboard, one story after the other."""

from __future__ import annotations

import re

import asyncpg
import pytest
from playwright.async_api import expect

from relay.store import deadletters
from relay.store.engine import Database
from relay.store.events import Operator
from tests.admin.world import OPERATOR, VIEWER, Served
from tests.browser.furnished import body_of
from tests.browser.hands import REASON, act, main, one, row
from tests.browser.visit import Visits
from tests.store.rows import bury, deliver, fail, leave_out, new_event, states, store


async def test_somebody_logs_in_and_out(dashboard: Served, visit: Visits) -> None:
    page = await visit(dashboard, None)
    await page.goto("/events?state=dead")
    await expect(page).to_have_url(re.compile(r"/login\?next="))
    await expect(page.get_by_label("Token")).to_be_focused()
    await page.get_by_label("Token").fill("a guess")
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("alert")).to_have_text("That is not a token of this relay.")
    await page.get_by_label("Token").fill(OPERATOR)
    await page.get_by_label("Your name").fill("Ana")
    await page.get_by_role("button", name="Log in").click()
    await expect(page).to_have_url(f"{dashboard.base_url}/events?state=dead")
    await expect(page.locator(".who")).to_contain_text("Ana")
    await page.get_by_role("button", name="Log out").click()
    await expect(page).to_have_url(f"{dashboard.base_url}/login")
    await page.goto("/events")
    await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_the_overview_renews_itself(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    page = await visit(dashboard)
    await page.goto("/")
    await expect(page.locator("#live-status")).to_have_text("Live")
    await expect(main(page)).to_contain_text("does not verify signatures")
    inbox_id = await one(pg, source_id, "evt_1", "cus_1")
    await bury(pg, inbox_id)
    await expect(main(page)).to_contain_text("1 event is dead")
    await page.get_by_role("link", name="1 event is dead").click()
    await expect(page.get_by_role("heading", name="Dead letters")).to_be_visible()


@pytest.mark.parametrize("by", ["event", "object", "inbox id"])
async def test_something_is_searched(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int, by: str
) -> None:
    inbox_id = await one(pg, source_id, "evt_searched", "cus_searched")
    page = await visit(dashboard)
    await page.goto("/")
    box = page.get_by_role("search").get_by_role("textbox")
    wanted = {"event": "evt_searched", "object": "cus_searched", "inbox id": str(inbox_id)}[by]
    await box.fill(f" {wanted} ")
    await box.press("Enter")
    there = "/objects?id=cus_searched" if by == "object" else f"/events/{inbox_id}"
    await expect(page).to_have_url(dashboard.base_url + there)
    await expect(main(page)).to_contain_text("evt_searched")


async def test_events_are_filtered_and_turned_over(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, *(new_event(source_id, f"evt_{n:03}") for n in range(120)))
    (skipped,) = await store(pg, new_event(source_id, "evt_left", event_type="price.created"))
    await leave_out(pg, skipped)
    page = await visit(dashboard)
    await page.goto("/events")
    await page.get_by_label("Type").fill("customer.*")
    await page.get_by_label("State").select_option("pending")
    await page.get_by_role("button", name="Filter").click()
    await expect(page).to_have_url(re.compile(r"type=customer\.\*.*state=pending"))
    await expect(row(page, "evt_119")).to_be_visible()
    await expect(row(page, "evt_left")).to_have_count(0)
    await page.get_by_role("link", name="Older").click()
    await expect(page).to_have_url(re.compile(r"type=customer.*state=pending.*before="))
    await expect(row(page, "evt_069")).to_be_visible()
    # A link to it shows the same to whoever opens it.
    other = await visit(dashboard, VIEWER)
    await other.goto(page.url)
    await expect(other.get_by_label("Type")).to_have_value("customer.*")
    await expect(other.get_by_label("State")).to_have_value("pending")
    await expect(row(other, "evt_069")).to_be_visible()
    await page.get_by_role("link", name="Older").click()
    await expect(row(page, "evt_000")).to_be_visible()
    await expect(page.get_by_role("link", name="Older")).to_have_count(0)
    await page.get_by_role("link", name="Newest").click()
    await expect(row(page, "evt_119")).to_be_visible()
    await page.go_back()
    await expect(row(page, "evt_000")).to_be_visible()
    await page.get_by_role("link", name="Clear").click()
    await expect(row(page, "evt_left", "skipped")).to_be_visible()


async def test_one_event_is_read_from_top_to_bottom(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id, "evt_read", "cus_read")
    await fail(pg, inbox_id)
    await deliver(pg, inbox_id, records=2)
    page = await visit(dashboard)
    await page.goto(f"/events/{inbox_id}")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("customer.updated")
    for text in ("evt_read", "cus_read", "t=1,v1=00", "test"):
        await expect(main(page).locator("dd", has_text=text).first).to_be_visible()
    sha256 = await pg.fetchval(
        "SELECT encode(body_sha256, 'hex') FROM relay.inbox WHERE id = $1", inbox_id
    )
    await expect(main(page)).to_contain_text(sha256)
    await expect(row(page, "metadata", "silver", "gone")).to_be_visible()
    await expect(row(page, "email", "a@example.com", "ana@example.com")).to_be_visible()
    received = page.get_by_role("region", name="Body, as received")
    await expect(received).to_be_hidden()
    await page.get_by_text("As received", exact=True).click()
    await expect(received).to_contain_text('"email": "ana@example.com"')
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download it").click()
    path = await (await downloading.value).path()
    assert path.read_bytes() == body_of("evt_read", "cus_read")
    records = page.get_by_role("region", name="Records in Kafka")
    await expect(records.get_by_role("row")).to_have_count(3)
    await expect(records.get_by_role("row").nth(1)).to_contain_text('{"id":"cus_1"}')
    await expect(page.get_by_role("region", name="Failed attempts")).to_contain_text("it broke")


@pytest.mark.parametrize(
    ("action", "before", "after", "told"),
    [
        ("Try now", "retrying", "retrying", "The event is tried now."),
        ("Skip", "retrying", "skipped", "The event was skipped."),
        ("Replay", "dead", "pending", "The event is queued again."),
        ("Discard", "dead", "skipped", "The dead letter was discarded."),
    ],
)
async def test_an_operator_acts_with_a_reason(
    dashboard: Served,
    visit: Visits,
    pg: asyncpg.Connection,
    source_id: int,
    action: str,
    before: str,
    after: str,
    told: str,
) -> None:
    inbox_id = await one(pg, source_id, "evt_1", "cus_1")
    await (fail if before == "retrying" else bury)(pg, inbox_id)
    page = await visit(dashboard, name="Ana")
    await page.goto(f"/events/{inbox_id}")
    button = page.get_by_role("button", name=action, exact=True)
    # The browser itself asks for the reason.
    await button.click()
    await expect(page).to_have_url(f"{dashboard.base_url}/events/{inbox_id}")
    await expect(page.get_by_label("Reason").and_(page.locator(":focus"))).to_be_visible()
    assert await states(pg, inbox_id) == [before]
    await act(page, action)
    await expect(page.get_by_role("status")).to_contain_text(told)
    assert await states(pg, inbox_id) == [after]
    await page.get_by_role("link", name="operator log").first.click()
    await expect(row(page, "Ana (dashboard)", REASON)).to_be_visible()


async def test_a_reason_of_blanks_is_none(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id, "evt_1", "cus_1")
    page = await visit(dashboard)
    await page.goto(f"/events/{inbox_id}")
    await act(page, "Skip", "   ")
    await expect(main(page)).to_contain_text("reason: say why; it is kept in the operator log.")
    assert await states(pg, inbox_id) == ["pending"]


async def test_an_object_has_its_events_in_their_order(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    first, second = [await one(pg, source_id, f"evt_{n}", "cus_timeline") for n in (1, 2)]
    await deliver(pg, first)
    await bury(pg, second)
    page = await visit(dashboard)
    await page.goto(f"/events/{first}")
    await page.get_by_role("link", name="cus_timeline").click()
    rows = page.get_by_role("row")
    await expect(rows.nth(1)).to_contain_text("evt_2")
    await expect(rows.nth(1)).to_contain_text("dead")
    await expect(rows.nth(2)).to_contain_text("delivered")
    await page.get_by_role("link", name="evt_2").click()
    await expect(page).to_have_url(f"{dashboard.base_url}/events/{second}")


async def test_dead_letters_are_sent_again_in_the_background(
    dashboard: Served,
    visit: Visits,
    pg: asyncpg.Connection,
    database: Database,
    source_id: int,
) -> None:
    dead = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(6)))
    await bury(pg, *dead[:5])
    await bury(pg, dead[5], code="no_route")
    page = await visit(dashboard, name="Ana")
    await page.goto("/dead-letters")
    await page.get_by_role("link", name="too_large").click()
    await expect(row(page, "evt_4")).to_be_visible()
    await expect(row(page, "evt_5")).to_have_count(0)
    await page.get_by_role("link", name="send all that fit again").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Send 5 dead letters again?")
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    await act(page, "Send them again")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Replay ")
    await expect(page.locator("#live-status")).to_have_text("Live")
    await expect(main(page)).to_contain_text("0 of 5")
    replay_id = page.url.rpartition("/")[2]
    async with database.begin() as connection:
        run = await deadletters.find_run(connection, replay_id)
        assert run is not None
        await deadletters.queue_some(connection, run, Operator("Ana (dashboard)", REASON), limit=2)
    # The page finds out by itself.
    await expect(main(page)).to_contain_text("2 of 5")
    await expect(main(page)).to_contain_text("going on")
    await act(page, "Cancel it")
    await expect(main(page)).to_contain_text("cancelled")
    await expect(page.get_by_role("button", name="Cancel it")).to_have_count(0)
    while await dashboard.dashboard.replayer.run_once():
        pass
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 2
    await page.get_by_role("link", name="Replays").click()
    await expect(row(page, replay_id, "cancelled", REASON)).to_be_visible()


async def test_a_viewer_sees_no_actions_and_no_bodies(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one(pg, source_id, "evt_1", "cus_1")
    await bury(pg, inbox_id)
    page = await visit(dashboard, VIEWER)
    for path in ("/", f"/events/{inbox_id}", "/dead-letters", "/replays/new?of=dead-letters"):
        await page.goto(path)
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await expect(page.get_by_label("Reason")).to_have_count(0)
        await expect(main(page)).not_to_contain_text("ana@example.com")
    await page.goto(f"/events/{inbox_id}")
    await expect(main(page)).to_contain_text("Bodies are shown to operators.")
    await expect(page.get_by_role("link", name="Download it")).to_have_count(0)
