"""What others sent runs nothing, moves nothing and leads nowhere, in a real browser."""

from __future__ import annotations

import json

import asyncpg
import pytest

from tests.browser.tab import NARROW, Tab
from tests.store.rows import bury, fail, new_event, store

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</pre></td></table></textarea></title><svg onload=alert(1)>",
    "javascript:alert(1)//",
    '=HYPERLINK("http://example.invalid/","x")',
    "\u202egnp.exe\u2066\x1b]0;title\x07\x1b[2J",
    "http://example.invalid/x.png",
    "W" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_was_sent_does_nothing(
    tab: Tab, pg: asyncpg.Connection, source_id: int, text: str
) -> None:
    """``tab`` tells in the end of scripts, dialogs, and of what was asked elsewhere."""
    paths = await _everywhere(pg, source_id, text)
    await tab.page.set_viewport_size(NARROW)
    for path in paths:
        await tab.go(path)
        assert await tab.too_wide() <= 0, path
        for link in await tab.page.locator("a[href]").all():
            target = await link.get_attribute("href")
            assert target is not None
            assert target.startswith(("/", "#")), (path, target)
    await tab.go(paths[0])
    for summary in await tab.page.locator("summary").all():
        await summary.click()
    assert await tab.too_wide() <= 0
    await tab.page.locator("#retry-reason").fill(text[:1000])
    await tab.press("Try now")
    await tab.go("/operator-log")
    assert await tab.too_wide() <= 0


async def _everywhere(pg: asyncpg.Connection, source_id: int, text: str) -> list[str]:
    """An event that retries and one that is dead, which say it; the pages that show them."""
    name = text[:200]
    told = {"object": {"id": name, text: text}, "previous_attributes": {text: text}}
    body = json.dumps({"id": name, "type": name, "data": told}, ensure_ascii=False).encode()
    fields = {
        "event_type": name,
        "object_type": name,
        "object_id": name,
        "account": name,
        "api_version": name,
        "signature_header": name,
    }
    events = (new_event(source_id, name + str(number), body=body, **fields) for number in range(2))
    retrying, dead = await store(pg, *events)
    await fail(pg, retrying)
    await pg.execute("UPDATE relay.queue SET last_error_code = $1, last_error = $2", name, text)
    await bury(pg, dead, code=name)
    await pg.execute("UPDATE relay.dead_letter SET error = $1", text)
    source = await pg.fetchval("UPDATE relay.source SET name = $1 RETURNING public_id", name)
    return [
        f"/events/{retrying}",
        f"/events/{dead}",
        "/events",
        "/dead-letters",
        "/",
        "/replays/new?of=dead-letters",
        "/sources",
        f"/sources/{source}",
        f"/sources/{source}/edit",
    ]
