"""What people come for, from the login to the operator log."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from playwright.async_api import Browser, expect

from relay.core.event import peek
from relay.dev.stripe_api import FakeStripe
from relay.settings import Settings
from relay.snapshotter import Shared, Snapshotter
from relay.store.engine import Database
from relay.store.sealing import Seal
from tests.admin.world import OPERATOR, VIEWER, Served
from tests.browser.conftest import KEY
from tests.browser.tab import Tab, new_tab
from tests.store.rows import bury, deliver, fail, new_event, states, store

CHANGED = (
    b'{"id": "evt_1", "type": "customer.updated", "data": {"object":'
    b' {"id": "cus_1", "object": "customer", "email": "new@example.com", "balance": 1.10},'
    b' "previous_attributes": {"email": "old@example.com"}}}'
)


async def one_event(pg: asyncpg.Connection, source_id: int) -> int:
    assert peek(CHANGED).event_id == "evt_1"
    (inbox_id,) = await store(pg, new_event(source_id, "evt_1", body=CHANGED))
    return inbox_id


async def until(is_so: Callable[[], Awaitable[bool]], tab: Tab) -> None:
    """Look again and again; the test's own time-out ends it."""
    while not await is_so():
        await tab.page.wait_for_timeout(50)


async def test_one_logs_in_with_a_token_and_out_again(browser: Browser, desk: Served) -> None:
    async with new_tab(browser, desk.base_url) as tab:
        await tab.go("/events?state=dead")
        await tab.heading("Log in")
        await tab.field("Token").fill("not the token")
        await tab.press("Log in")
        await expect(tab.page.get_by_role("alert")).to_be_visible()
        await tab.field("Token").fill(OPERATOR)
        await tab.field("Your name").fill("ana")
        await tab.press("Log in")
        await tab.is_at("/events?state=dead")  # where one wanted to go
        await expect(tab.page.locator(".who")).to_contain_text("ana")
        assert await tab.page.evaluate("document.cookie") == ""  # scripts do not see it
        await tab.press("Log out")
        await tab.go("/")
        await tab.heading("Log in")


async def test_the_overview_renews_itself(tab: Tab, pg: asyncpg.Connection, source_id: int) -> None:
    await tab.go("/")
    await tab.heading("Overview")
    await expect(tab.page.locator("#live-status")).to_have_text("Live")
    (inbox_id,) = await store(pg, new_event(source_id))
    await bury(pg, inbox_id)
    await tab.shows("1 event is dead")  # no page was loaded
    await tab.follow("1 event is dead")
    await tab.heading("Dead letters")


async def test_one_box_finds_events_and_objects(
    tab: Tab, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one_event(pg, source_id)
    search = tab.field("Go to an event or an object")
    await search.fill("evt_1")
    await search.press("Enter")
    await tab.is_at(f"/events/{inbox_id}")
    await search.fill(" cus_1 ")
    await search.press("Enter")
    await tab.is_at("/objects?id=cus_1")
    await tab.follow("evt_1")
    await tab.is_at(f"/events/{inbox_id}")


async def test_the_filter_is_in_the_address_and_lists_have_pages(
    tab: Tab, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(60)))
    await store(pg, new_event(source_id, "evt_other", event_type="charge.failed"))
    await bury(pg, ids[3])
    await tab.go("/events")
    await tab.field("Type").fill("customer.*")
    await tab.press("Filter")
    await expect(tab.page).to_have_url(re.compile("type=customer"))
    rows = tab.page.locator("tbody tr")
    await expect(rows).to_have_count(50)
    await expect(tab.page.locator("table")).not_to_contain_text("evt_other")
    await tab.follow("Older")
    await expect(rows).to_have_count(10)
    await expect(tab.field("Type")).to_have_value("customer.*")
    await tab.follow("Newest")
    await expect(rows).to_have_count(50)
    await tab.page.go_back()
    await expect(rows).to_have_count(10)
    await tab.go("/events?state=dead")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("evt_3")


async def test_an_event_tells_everything(tab: Tab, pg: asyncpg.Connection, source_id: int) -> None:
    inbox_id = await one_event(pg, source_id)
    await deliver(pg, inbox_id)
    await tab.go(f"/events/{inbox_id}")
    await tab.heading("customer.updated delivered")
    for text in ("SHA-256", "t=1,v1=00", "old@example.com", "new@example.com", '"balance": 1.10'):
        await tab.shows(text)
    await expect(tab.page.get_by_role("region", name="Records in Kafka")).to_contain_text("100")
    await tab.page.get_by_text("As received", exact=True).click()
    await expect(tab.page.get_by_label("Body, as received")).to_have_text(CHANGED.decode())
    async with tab.page.expect_download() as download:
        await tab.follow("Download it, byte for byte")
    path = await (await download.value).path()
    assert path.read_bytes() == CHANGED


@pytest.mark.parametrize(
    ("action", "button", "state", "told"),
    [
        ("retry", "Try now", "retrying", "The event is tried now."),
        ("skip", "Skip", "skipped", "The event was skipped."),
        ("replay", "Replay", "pending", "The event is queued again."),
        ("discard", "Discard", "skipped", "The dead letter was discarded."),
    ],
)
async def test_what_can_be_done_asks_for_a_reason_and_is_written_down(
    tab: Tab,
    pg: asyncpg.Connection,
    source_id: int,
    action: str,
    button: str,
    state: str,
    told: str,
) -> None:
    inbox_id = await one_event(pg, source_id)
    await (fail if action in ("retry", "skip") else bury)(pg, inbox_id)
    before = await states(pg, inbox_id)
    await tab.go(f"/events/{inbox_id}")
    await tab.press(button)  # the browser asks for a reason
    assert await states(pg, inbox_id) == before
    await tab.page.locator(f"#{action}-reason").fill("the consumer is mended")
    await tab.press(button)
    await expect(tab.page.get_by_role("status")).to_contain_text(told)
    assert await states(pg, inbox_id) == [state]
    # What is tried now waits for nothing any more.
    waits = "SELECT count(*) FROM relay.queue WHERE visible_at > now()"
    assert await pg.fetchval(waits) == 0
    await tab.follow("operator log")
    row = tab.page.locator("tbody tr").first
    for text in ("ana (dashboard)", f".{action}", "the consumer is mended"):
        await expect(row).to_contain_text(text)


async def test_all_dead_letters_that_fit_are_sent_again(
    tab: Tab, desk: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(5)))
    await bury(pg, *ids[:3])
    await bury(pg, *ids[3:], code="no_route")
    await tab.go("/dead-letters")
    await tab.follow("too_large")
    await tab.follow("send all that fit again")
    await tab.heading("Send 3 dead letters again?")
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    await tab.field("Reason").fill("the limit is higher now")
    await tab.press("Send them again")
    await tab.shows("going on")
    await until(desk_is_done(desk), tab)
    await tab.shows("all queued")  # by itself
    await tab.shows("3 of 3")
    assert await states(pg, *ids) == ["pending"] * 3 + ["dead"] * 2


def desk_is_done(desk: Served) -> Callable[[], Awaitable[bool]]:
    async def is_done() -> bool:
        return await desk.dashboard.replayer.run_once() == 0

    return is_done


async def test_a_replay_is_cancelled(
    tab: Tab, desk: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(3)))
    await bury(pg, *ids)
    await tab.go("/replays/new?of=dead-letters")
    await tab.field("Reason").fill("all of them")
    await tab.press("Send them again")
    await tab.field("Reason").fill("not yet")
    await tab.press("Cancel it")
    await tab.shows("cancelled")
    await until(desk_is_done(desk), tab)
    assert await states(pg, *ids) == ["dead"] * 3


async def test_all_dead_letters_that_fit_are_discarded(
    tab: Tab, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, f"evt_{n}") for n in range(4)))
    await bury(pg, *ids[:3])
    await bury(pg, ids[3], code="no_route")
    await tab.go("/dead-letters?error=too_large")
    await tab.follow("discard all that fit")
    await tab.heading("Discard 3 dead letters?")
    await tab.field("Reason").fill("nobody wants them")
    await tab.press("Discard them")
    await expect(tab.page.get_by_role("status")).to_contain_text("3 dead letters were discarded")
    assert await states(pg, *ids) == ["skipped"] * 3 + ["dead"]


async def test_a_snapshot_is_started_paused_resumed_and_cancelled(
    tab: Tab, database: Database, stripe: FakeStripe, source_id: int
) -> None:
    await tab.go("/snapshots")
    await tab.field("Source").select_option("shop")
    await tab.press("Start one …")
    await tab.field("Reason").fill("the initial load")
    await tab.press("Start")
    await tab.shows("running")
    for button, state in (("Pause", "paused"), ("Resume", "running"), ("Cancel", "cancelled")):
        await (
            tab.page.locator("form", has=tab.page.get_by_role("button", name=button))
            .get_by_label("Reason")
            .fill("to see that it works")
        )
        await tab.press(button)
        await tab.shows(state)
    await tab.go("/snapshots/new?source=shop")
    await tab.field("Reason").fill("once more")
    await tab.press("Start")
    await tab.shows("running")
    settings = Settings(stripe_api_base=stripe.url, stripe_rate_share=1.0)
    shared = Shared(database, Seal([KEY]), settings)
    while await Snapshotter(shared).run_once():
        pass
    await shared.close()
    await tab.shows("finished")  # by itself
    await tab.shows("280")
    await tab.go("/snapshots")
    await expect(tab.page.locator("tbody tr")).to_have_count(2)


async def test_a_source_is_made_changed_and_given_a_new_key(
    tab: Tab, pg: asyncpg.Connection
) -> None:
    await tab.go("/sources")
    await tab.follow("New source …")
    await tab.page.locator("#name").fill("shop-eu")
    await tab.page.locator("#signing_secrets").fill("whsec_" + "a" * 32)
    await tab.page.locator("#these").check()
    before = await tab.page.locator("input[name=resource]:checked").all()
    assert before, "there are presets"
    await tab.page.get_by_role("checkbox", name="invoice", exact=True).check()
    await tab.page.locator("#others").fill("v2")
    await tab.page.locator("#reason").fill("the second shop")
    await tab.press("Make it")
    await tab.heading("Source shop-eu was made")
    await tab.shows("/webhooks/src_")
    assert "whsec_" not in await tab.page.content()
    await tab.follow("Go on to the source")
    await tab.heading("Source shop-eu forwarding")
    await tab.follow("Change the settings …")
    await expect(tab.page.get_by_role("checkbox", name="invoice", exact=True)).to_be_checked()
    await tab.page.get_by_role("checkbox", name="invoice", exact=True).uncheck()
    await tab.page.locator("#reason").fill("no invoices")
    await tab.press("Save")
    await expect(tab.page.get_by_role("status")).to_be_visible()
    resources = await pg.fetchval("SELECT resources FROM relay.source")
    assert "v2" in resources
    assert "invoice" not in resources
    rotate = tab.page.locator("form", has=tab.page.get_by_role("button", name="Make a new key"))
    await rotate.get_by_label("Reason").fill("somebody has left")
    await tab.press("Make a new key")
    await tab.heading("New key of shop-eu")
    assert await pg.fetchval("SELECT count(*) FROM relay.api_key") == 2


async def test_a_viewer_sees_neither_bodies_nor_actions(
    browser: Browser, desk: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one_event(pg, source_id)
    await bury(pg, inbox_id)
    async with new_tab(browser, desk.base_url) as tab:
        await tab.log_in(VIEWER, name="")
        for path in (f"/events/{inbox_id}", "/dead-letters", "/replays/new?of=dead-letters"):
            await tab.go(path)
            await expect(tab.page.get_by_role("main")).not_to_contain_text("example.com")
            await expect(tab.page.locator("main form[method=post]")).to_have_count(0)


async def test_everything_works_without_scripts(
    still_tab: Tab, desk: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    tab = still_tab
    inbox_id = await one_event(pg, source_id)
    await bury(pg, inbox_id)
    await tab.go("/")
    while not await tab.page.get_by_role("link", name="1 event is dead").count():
        await tab.page.reload()  # what it shows is some seconds old
    await tab.follow("1 event is dead")
    await tab.follow("send all that fit again")
    await tab.field("Reason").fill("without a script")
    await tab.press("Send them again")
    await tab.shows("going on")
    while await desk.dashboard.replayer.run_once():
        pass
    await tab.page.reload()
    await tab.shows("all queued")
    await tab.field("Go to an event or an object").fill("evt_1")
    await tab.press("Go")
    await tab.heading("customer.updated pending")
    await tab.page.locator("#skip-reason").fill("nor this")
    await tab.press("Skip")
    await tab.shows("The event was skipped.")


async def test_the_keyboard_is_enough(
    browser: Browser, desk: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    inbox_id = await one_event(pg, source_id)
    await fail(pg, inbox_id)
    async with new_tab(browser, desk.base_url) as tab:
        keys = tab.page.keyboard
        await tab.go("/login")
        await expect(tab.field("Token")).to_be_focused()
        await keys.type(OPERATOR)
        await keys.press("Enter")
        await tab.heading("Overview")
        await keys.press("Tab")
        skip = tab.page.get_by_role("link", name="Skip to the content")
        await expect(skip).to_be_focused()
        await expect(skip).to_be_in_viewport()  # it is to be seen while it has the focus
        await tab_to(tab, "#search")
        await keys.type("evt_1")
        await keys.press("Enter")
        await tab.heading("customer.updated retrying")
        await tab_to(tab, "#retry-reason")
        await keys.type("by keyboard")
        await keys.press("Tab")
        await has_a_mark(tab)
        await keys.press("Space")
        await tab.shows("The event is tried now.")
    done = await pg.fetchrow("SELECT action, reason FROM relay.operator_log")
    assert tuple(done) == ("event.retry", "by keyboard")


async def tab_to(tab: Tab, selector: str) -> None:
    """Press the tabulator until it is there; everything on the way shows that it has the focus."""
    for _ in range(60):
        await tab.page.keyboard.press("Tab")
        await has_a_mark(tab)
        if await tab.page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"the keyboard does not reach {selector}")


async def has_a_mark(tab: Tab) -> None:
    style = await tab.page.evaluate(
        "() => { const style = getComputedStyle(document.activeElement);"
        " return [document.activeElement.outerHTML.slice(0, 80), style.outlineStyle,"
        " style.outlineWidth]; }"
    )
    assert style[1] != "none", style
    assert style[2] != "0px", style
