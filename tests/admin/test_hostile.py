"""What others sent stays text on every page, and moves nothing."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import asyncpg
import pytest

from relay.admin import bodies
from relay.display import printable
from tests.admin.reader import Page
from tests.admin.world import OPERATOR, VIEWER, Served, csrf_token
from tests.store.rows import bury, fail, new_event, store

SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "\"><img src=x onerror=alert(1)>'",
    "</pre></td></table></textarea></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;&#60;",
    "javascript:alert(1)//",
    "\u202egnp.exe\u2066\u200b\ufeff",
    "\x1b]0;title\x07\x1b[2J\r\x7f\x9b",
    "a\u2028b\u2029c",
    "../../../etc/passwd?x=1#y",
    "%3Cscript%3E",
)
INVISIBLE = "\u202e\u2066\u200b\ufeff\x1b\x07\x7f\x9b\u2028\u2029\r"


async def _everywhere(pg: asyncpg.Connection, source_id: int, text: str) -> int:
    """An event that says it in every field that others fill."""
    body = json.dumps(
        {
            "id": text,
            "type": text,
            "data": {
                "object": {"id": text, text: text},
                "previous_attributes": {text: text + "before"},
            },
        },
        ensure_ascii=False,
    ).encode()
    event = new_event(
        source_id,
        text,
        event_type=text,
        object_type=text,
        object_id=text,
        account=text,
        api_version=text,
        signature_header=text,
        body=body,
    )
    (inbox_id,) = await store(pg, event)
    await fail(pg, inbox_id)
    await pg.execute(
        "UPDATE relay.queue SET last_error_code = $1, last_error = $1 WHERE inbox_id = $2",
        text,
        inbox_id,
    )
    await pg.execute(
        "INSERT INTO relay.attempt (inbox_id, number, error_code, error) VALUES ($1, $1, $2, $2)",
        inbox_id,
        text,
    )
    await pg.execute(
        """
        INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts, partition,
            "offset", produced_at, topic, key, op, replay_id)
        SELECT id, received_at, id, 0, 0, 0, 1, 2, now(), $1, $1, $1, $1 FROM relay.inbox
        """,
        text,
    )
    await pg.execute(
        "INSERT INTO relay.operator_log (who, action, target, reason, details)"
        " VALUES ($1, 'event.retry', $1, $1,"
        " jsonb_build_object('ids', jsonb_build_array($2::bigint)))",
        text,
        inbox_id,
    )
    await pg.execute("UPDATE relay.source SET name = $1", text)
    return inbox_id


@pytest.mark.parametrize("text", HOSTILE)
async def test_text_stays_text(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, text: str
) -> None:
    inbox_id = await _everywhere(pg, source_id, text)
    wanted = quote(text, safe="")
    paths = {
        f"/events/{inbox_id}": 200,
        "/": 200,
        "/parts/overview": 200,
        "/events": 200,
        f"/events?type={wanted}&event_id={wanted}&object={wanted}&error={wanted}": 200,
        f"/events?since={wanted}": 400,
        f"/events?state={wanted}": 400,
        f"/events?source={wanted}x": 400,
        f"/events/{wanted}".replace("%2F", "-"): 404,
        f"/objects?id={wanted}": 200,
        "/operator-log": 200,
        f"/operator-log?before={wanted}": 400,
    }
    for token in (OPERATOR, VIEWER):
        for path, status in paths.items():
            answer = await dashboard.client(token).get(path)
            assert answer.status_code == status, (path, answer.text)
            page = Page(answer.text, is_part=not answer.text.startswith("<!DOCTYPE"))
            assert page.faults == [], path
            assert not set(INVISIBLE) & set(answer.text), path
    answer = await dashboard.client().get(f"/login?next={wanted}")
    assert answer.status_code == 200
    assert Page(answer.text).faults == []
    # Shown as it is, and not escaped twice or taken for a template.
    shown = " ".join(printable(text).split())
    for path in (f"/events/{inbox_id}", "/events", "/operator-log"):
        page = Page((await dashboard.client(OPERATOR).get(path)).text)
        assert page.text.count(shown) >= 3, path


async def test_dead_letters_stay_text(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id, SCRIPT, event_type=SCRIPT))
    await bury(pg, inbox_id, code=SCRIPT)
    await pg.execute(
        "INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, refused_body)"
        " VALUES ($1, $2, $2, 0, $3)",
        source_id,
        SCRIPT,
        SCRIPT.encode(),
    )
    for path in ("/dead-letters", f"/events/{inbox_id}", "/"):
        answer = await dashboard.client(OPERATOR).get(path)
        page = Page(answer.text)
        assert page.faults == []
        assert SCRIPT in page.text


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_an_operator_types_stays_text(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, text: str
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser()
    form = {"reason": text, "csrf_token": await csrf_token(browser, "/")}
    answer = await browser.post(f"/events/{inbox_id}/retry", data=form, follow_redirects=True)
    assert answer.status_code == 200
    assert Page(answer.text).faults == []
    assert Page((await browser.get("/operator-log")).text).faults == []
    assert not set(INVISIBLE) & set(answer.text)


async def test_bytes_that_are_no_text_are_shown(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    for body in (b"\xff\xfe\x00<b>", b"", b"[" * 2000, b'"\\ud800"', "\u202e".encode()):
        (inbox_id,) = await store(pg, new_event(source_id, body=body))
        answer = await dashboard.client(OPERATOR).get(f"/events/{inbox_id}")
        assert answer.status_code == 200, body
        assert Page(answer.text).faults == []
        assert (await dashboard.client(OPERATOR).get(f"/events/{inbox_id}/body")).content == body


def test_an_indented_body_has_every_token_as_it_was() -> None:
    body = rb'{"a":1.10,"a":1e400,"s":"\u00e9\ud800 {[,:\"","e":{},"l":[ ],"n":[1,{"x":null}]}'
    assert bodies.pretty(body) == "\n".join(
        [
            "{",
            '  "a": 1.10,',
            '  "a": 1e400,',
            r'  "s": "\u00e9\ud800 {[,:\"",',
            '  "e": {},',
            '  "l": [],',
            '  "n": [',
            "    1,",
            "    {",
            '      "x": null',
            "    }",
            "  ]",
            "}",
        ]
    )
    for none in (b"", b"{", b"\xff", b"[" * 200 + b"]" * 200, b"1 2"):
        assert bodies.pretty(none) is None, none


def test_changes_are_told_by_their_paths() -> None:
    def of(previous: object, now: object) -> list[tuple[str, str, str | None]]:
        event = {"data": {"object": {"id": "x"} | now, "previous_attributes": previous}}  # type: ignore[operator]
        found = bodies.changes(json.dumps(event).encode())
        return [(each.path, each.before, each.after) for each in found]

    assert of(None, {}) == []
    assert of({}, {}) == []
    assert of({"a": 1}, {"a": 2}) == [("a", "1", "2")]
    assert of({"a": 1}, {}) == [("a", "1", None)]
    assert of({"a": {"b": [1]}}, {"a": {"b": [2], "c": 3}}) == [("a.b", "[1]", "[2]")]
    assert of({"a": {"b": 1}}, {"a": None}) == [("a", '{"b":1}', "null")]
    assert bodies.changes(b"not json") == []
    assert bodies.changes(b'{"data":{}}') == []


def test_a_body_of_thousands_of_changes_is_read_in_a_moment() -> None:
    many = {f"field_{number}": number for number in range(5000)}
    body = {"data": {"object": {"id": "x"} | many, "previous_attributes": many}}
    # By looking for each name anew it took minutes.
    began = time.process_time()
    assert len(bodies.changes(json.dumps(body).encode())) == 5000
    assert time.process_time() - began < 10
    deep = b'{"data":{"object":{"a":%s1%s},"previous_attributes":{"a":%s0%s}}}'
    nested = (b'{"a":' * 5000, b"}" * 5000)
    assert bodies.changes(deep % (*nested, *nested)) == []
