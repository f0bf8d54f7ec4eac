"""What each page shows, with data and without, and that everybody can read it."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import asyncpg
import pytest

from relay.core.listings import LISTINGS
from relay.store import snapshots, throughput
from relay.store.engine import Database
from relay.store.throughput import Written
from tests.admin.reader import Page
from tests.admin.world import LOCKED, OPERATOR, PAGES, VIEWER, Served, csrf_token, served
from tests.store.rows import bury, deliver, fail, leave_out, new_event, store

BODY = json.dumps(
    {
        "id": "evt_proof",
        "type": "customer.updated",
        "data": {
            "object": {"id": "cus_9", "amount": 1.10, "nested": {"kept": 1, "plan": "gold"}},
            "previous_attributes": {"amount": 1.0, "nested": {"plan": "basic"}, "gone": None},
        },
    }
).encode()


async def read(dashboard: Served, path: str, token: str = OPERATOR, status: int = 200) -> Page:
    """A page with nothing wrong in its structure."""
    answer = await dashboard.client(token).get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text, is_part=path.startswith("/parts/"))
    assert page.faults == [], path
    return page


async def one_of_each(pg: asyncpg.Connection, source_id: int) -> dict[str, int]:
    """An event in each state, by its state."""
    names = ("pending", "retrying", "dead", "skipped", "delivered")
    ids = dict(
        zip(
            names,
            await store(
                pg,
                *(new_event(source_id, f"evt_{name}", object_id=f"cus_{name}") for name in names),
            ),
            strict=True,
        )
    )
    await fail(pg, ids["retrying"])
    await bury(pg, ids["dead"])
    await leave_out(pg, ids["skipped"])
    await deliver(pg, ids["delivered"])
    return ids


# --- structure --------------------------------------------------------------------------------


def test_the_reader_finds_what_is_wrong() -> None:
    for wrong in (
        "<p onclick='x()'>a</p>",
        "<p style='color:red'>a</p>",
        "<style>p {}</style>",
        "<script>x()</script>",
        "<script src='https://cdn.example/x.js'></script>",
        "<a href='javascript:x()'>a</a>",
        "<a href='/x'></a>",
        "<input name=q>",
        "<table><tr><td>1</td></tr></table>",
        "<img src='/x'>",
        "<p id=a>1</p><p id=a>2</p>",
        "<section>1</section>",
        "<nav aria-label=a>1</nav><section aria-label=a>2</section>",
        "<p aria-labelledby=nobody>1</p>",
        "<p><b>1</p></b>",
    ):
        assert Page(wrong, is_part=True).faults, wrong
    assert Page("<p>no language, no heading</p>").faults


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_without_data(dashboard: Served, path: str) -> None:
    status = 404 if path.startswith("/objects") else 200
    page = await read(dashboard, path, status=status)
    # As a number, and not as a part of a time.
    assert not re.search(r"\b0\.0\b", page.text)


@pytest.mark.parametrize("token", [OPERATOR, VIEWER])
async def test_pages_with_data(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, token: str
) -> None:
    ids = await one_of_each(pg, source_id)
    for path in (*PAGES, "/objects?id=cus_dead", *(f"/events/{each}" for each in ids.values())):
        await read(dashboard, path, token, 404 if path == "/objects?id=cus_1" else 200)


async def test_thousands_stand_apart(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id, body=b'"%s"' % (b"x" * 1_234_565)))
    answer = await dashboard.client(OPERATOR).get(f"/events/{inbox_id}")
    assert "<dt>Bytes</dt><dd>1&nbsp;234&nbsp;567</dd>" in answer.text


async def test_the_login_and_what_goes_wrong_are_pages_too(dashboard: Served) -> None:
    for path, status in (("/nothing", 404), ("/events/999", 404), ("/events?state=x", 400)):
        await read(dashboard, path, status=status)
    assert Page((await dashboard.client().get("/login")).text).faults == []
    answer = await dashboard.client().post("/login", data={"token": "wrong"})
    page = Page(answer.text)
    assert page.faults == []
    assert "not a token of this relay" in page.text


async def test_open_pages_are_as_good(database_url: str, source_id: int) -> None:
    async with served(database_url) as world:
        for path in PAGES[:5]:
            answer = await world.client().get(path)
            assert Page(answer.text, is_part=path.startswith("/parts/")).faults == []


async def test_what_pages_load_is_there(dashboard: Served) -> None:
    page = await read(dashboard, "/")
    found = [a["src"] for a in page.tags("script")] + [a["href"] for a in page.tags("link")]
    assert len(found) == 3
    for path in found:
        answer = await dashboard.client().get(path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "public, max-age=86400"
    assert (await dashboard.client().get("/static/..%2fserver.py")).status_code == 404


# --- overview ---------------------------------------------------------------------------------


async def test_the_overview_counts_what_is_unfinished(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await one_of_each(pg, source_id)
    text = (await read(dashboard, "/")).text
    assert "1 event is dead and will not be tried again without you." in text
    assert "shop forwarding 1 1 1" in text
    assert "transform_error 1" in text
    assert "Kafka – (this process does not forward)" in text
    assert "PostgreSQL can be reached" in text
    assert "By this process – (it does not receive)" in text
    assert "Received – /s Sent – /s" in text


async def test_the_overview_tells_what_stops_a_source(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await pg.execute(
        "UPDATE relay.source SET halted_at = now(), halted_code = 'no_route',"
        " halted_error = 'nowhere to go', halted_number = 1"
    )
    text = (await read(dashboard, "/")).text
    assert "Source shop has halted: no_route, nowhere to go" in text
    assert "Source shop does not verify signatures" in text
    assert "Nothing has failed." not in text


async def test_the_overview_says_so_when_nothing_has_failed(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, new_event(source_id))
    # Without the name of a service there would be none that does anything.
    named = await asyncpg.connect(
        dashboard.database_url,
        server_settings={"application_name": "relay-forwarder"},
    )
    try:
        assert "Nothing has failed." in (await read(dashboard, "/")).text
    finally:
        await named.close()


async def test_what_takes_too_long_to_count_is_not_known(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.desk.Desk.inbox.__wrapped__.__defaults__", (0.2,))
    async with pg.transaction():
        await pg.execute("LOCK TABLE relay.queue IN ACCESS EXCLUSIVE MODE")
        text = (await read(dashboard, "/")).text
    assert "The database does not tell what is unfinished (QueryCanceledError)." in text
    assert "PostgreSQL can be reached" in text
    assert "Pending –" in text
    assert "Nothing has failed" not in text
    assert "cannot be reached" not in text


async def test_without_a_source_it_says_how_to_make_one(dashboard: Served) -> None:
    text = (await read(dashboard, "/")).text
    assert "There is no source yet: make one , or relay source create ." in text
    assert "Nothing has failed" not in text


async def test_the_overview_shows_snapshots_under_way(
    dashboard: Served, database: Database, source_id: int
) -> None:
    async with database.begin() as connection:
        listings = (("customer", LISTINGS[0]),)
        plan = snapshots.Plan(listings=listings, api_version="2026-08-26.dahlia", livemode=False)
        name = await snapshots.start(connection, plan, source_id)
    text = (await read(dashboard, "/")).text
    assert f"Snapshots under way shop {name} : running, 0 objects in 0 pages since" in text


async def test_the_chart_has_what_was_measured(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a failover the counters begin anew: nothing is known then, and no 0.
    counts = iter([Written(100, 50), Written(300, 150), Written(10, 20)])

    async def written(connection: object) -> Written:
        return next(counts)

    monkeypatch.setattr(throughput, "written", written)
    async with served(database_url, **LOCKED) as world:
        for _ in range(3):
            await world.dashboard.watch.run_once()
        page = await read(world, "/")
        lines = [a for a in page.tags("path") if a["class"] == "received" and a["d"] != "M2 5h28"]
        assert len(lines) == 1
        rates = (await world.dashboard.watch.overview()).throughput
        assert [(rate.received is None, rate.sent is None) for rate in rates] == [
            (False, False),
            (True, True),
        ]
        assert "Received – /s" in page.text


async def test_the_throughput_is_that_of_the_tables(
    database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    async with database.begin() as connection:
        before = await throughput.written(connection)
    (inbox_id,) = await store(pg, new_event(source_id))
    await deliver(pg, inbox_id)
    await pg.execute("SELECT pg_stat_force_next_flush()")
    await pg.execute("SELECT 1")
    async with database.begin() as connection:
        after = await throughput.written(connection)
    assert after.events - before.events == 1
    assert after.receipts - before.receipts == 1


# --- events -----------------------------------------------------------------------------------


async def test_filters_are_in_the_url_and_in_the_form(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await one_of_each(pg, source_id)
    for query, wanted in (
        ("state=dead", {"evt_dead"}),
        ("type=customer.*&state=skipped", {"evt_skipped"}),
        ("object=cus_delivered", {"evt_delivered"}),
        ("event_id=evt_pending", {"evt_pending"}),
        ("error=too_large", {"evt_dead"}),
        ("source=shop&since=1h&state=retrying", {"evt_retrying"}),
        ("type=invoice.*", set()),
        ("until=1h", set()),
        ("since=2026-01-01&until=2100-01-01T00:00:00Z&event_id=evt_dead", {"evt_dead"}),
    ):
        page = await read(dashboard, f"/events?{query}")
        links = [a["href"] for a in page.tags("a") if a.get("class") == "mono id"]
        assert len([each for each in links if each.startswith("/events/")]) == len(wanted), query
        assert all(name in page.text for name in wanted)
    page = await read(dashboard, "/events?type=a%22b&state=dead")
    (field,) = [a for a in page.tags("input") if a.get("name") == "type"]
    assert field["value"] == 'a"b'
    assert [a["value"] for a in page.tags("option") if "selected" in a] == ["dead"]


async def test_lists_go_on_where_they_ended(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id, object_id="cus_many") for _ in range(120)))
    for path in ("/events?object=cus_many&source=shop", "/objects?id=cus_many"):
        seen, url = [], path
        for rows in (50, 50, 20):
            page = await read(dashboard, url)
            links = [a["href"] for a in page.tags("a") if a.get("class") == "mono id"]
            events = [each for each in links if each.startswith("/events/")]
            assert len(events) == rows
            seen += [int(each.rpartition("/")[2]) for each in events]
            onward = [a["href"] for a in page.tags("a") if "before=" in a["href"]]
            url = onward[0] if onward else ""
        assert url == ""
        assert seen == sorted(ids, reverse=True)


async def test_one_box_finds_events_and_objects(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, new_event(source_id, "evt_here"), new_event(source_id, "snap_1_cus_2"))
    for text, there in (
        ("evt_here", f"/events/{ids[0]}"),
        (" snap_1_cus_2 ", f"/events/{ids[1]}"),
        (str(ids[0]), f"/events/{ids[0]}"),
        ("evt_none", "/events?event_id=evt_none"),
        ("cus_1", "/objects?id=cus_1"),
        ("a/b&c\x00", "/objects?id=a%2Fb%26c%00"),
        ("", "/events"),
    ):
        answer = await dashboard.client(OPERATOR).get(f"/search?q={quote(text)}")
        assert (answer.status_code, answer.headers["location"]) == (303, there), text


# --- one event --------------------------------------------------------------------------------


async def test_an_event_is_proven_from_top_to_bottom(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    event = new_event(source_id, "evt_proof", object_id="cus_9", body=BODY)
    (inbox_id,) = await store(pg, event)
    await fail(pg, inbox_id)
    await pg.execute(
        "INSERT INTO relay.attempt (inbox_id, number, error_code, error)"
        " VALUES ($1, $1, 'transform_error', 'it broke')",
        inbox_id,
    )
    await deliver(pg, inbox_id, records=2)
    text = (await read(dashboard, f"/events/{inbox_id}")).text
    for wanted in (
        "customer.updated delivered",
        "evt_proof",
        event.body_sha256.hex(),
        "t=1,v1=00",
        '"plan": "gold"',
        "amount 1.0 1.1",
        "gone null gone",
        'nested.plan "basic" "gold"',
        'customer 0 100 {"id":"cus_1"} u event',
        "customer 0 101",
        "transform_error it broke",
    ):
        assert wanted in text, wanted
    answer = await dashboard.client(OPERATOR).get(f"/events/{inbox_id}/body")
    assert answer.content == BODY
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"


async def test_a_large_body_is_cut_and_can_be_had(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    body = b'{"long": "' + b"x" * 400_000 + b'"}'
    (inbox_id,) = await store(pg, new_event(source_id, body=body))
    page = await read(dashboard, f"/events/{inbox_id}")
    assert "Only its beginning is shown" in page.text
    assert len(page.text) < 300_000
    assert (await dashboard.client(OPERATOR).get(f"/events/{inbox_id}/body")).content == body


async def test_bodies_are_not_for_viewers(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id, object_id="cus_9", body=BODY))
    page = await read(dashboard, f"/events/{inbox_id}", VIEWER)
    assert "Bodies are shown to operators." in page.text
    assert "gold" not in page.text
    assert "basic" not in page.text
    client = dashboard.client(VIEWER)
    assert (await client.get(f"/events/{inbox_id}/body")).status_code == 403
    shown = (await client.get(f"/api/events/{inbox_id}")).json()
    assert (shown["body"], shown["changes"], shown["possible"]) == (None, None, [])


async def test_bodies_can_be_hidden_from_everybody(
    database_url: str, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id, object_id="cus_9", body=BODY))
    for settings in ({**LOCKED, "admin_hide_bodies": True}, {"admin_hide_bodies": True}):
        async with served(database_url, **settings) as world:
            page = await read(world, f"/events/{inbox_id}")
            assert "Bodies are shown to nobody here" in page.text
            client = world.client(OPERATOR)
            assert (await client.get(f"/events/{inbox_id}/body")).status_code == 403
            shown = await client.get(f"/api/events/{inbox_id}")
            assert "gold" not in page.text + shown.text


async def test_a_redacted_body_is_gone(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id, object_id="cus_9", body=BODY))
    await deliver(pg, inbox_id)
    await pg.execute(
        "SELECT relay.redact(ARRAY[id], ARRAY[received_at], 'asked to', 'ann') FROM relay.inbox"
    )
    page = await read(dashboard, f"/events/{inbox_id}")
    assert "The body was redacted at" in page.text
    assert "by ann: asked to" in page.text
    assert "gold" not in page.text
    assert (await dashboard.client(OPERATOR).get(f"/events/{inbox_id}/body")).status_code == 404
    answer = await dashboard.client(OPERATOR).post(
        f"/api/events/{inbox_id}/replay", json={"reason": "again"}
    )
    assert answer.status_code == 409
    assert "redacted" in answer.json()["detail"]


# --- actions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "action", "after", "logged"),
    [
        ("pending", "retry", "pending", "event.retry"),
        ("retrying", "retry", "retrying", "event.retry"),
        ("pending", "skip", "skipped", "event.skip"),
        ("retrying", "skip", "skipped", "event.skip"),
        ("delivered", "replay", "pending", "event.replay"),
        ("skipped", "replay", "pending", "event.replay"),
        ("dead", "replay", "pending", "dead_letter.replay"),
        ("dead", "discard", "skipped", "dead_letter.discard"),
    ],
)
async def test_an_action_is_done_and_written_down(
    dashboard: Served,
    pg: asyncpg.Connection,
    source_id: int,
    state: str,
    action: str,
    after: str,
    logged: str,
) -> None:
    inbox_id = (await one_of_each(pg, source_id))[state]
    url = f"/events/{inbox_id}"
    browser = await dashboard.browser()
    page = Page((await browser.get(url)).text)
    assert f"{url}/{action}" in [a["action"] for a in page.tags("form")]
    form = {"reason": "  the fix is out  ", "csrf_token": await csrf_token(browser, url)}
    answer = await browser.post(f"{url}/{action}", data=form, follow_redirects=True)
    page = Page(answer.text)
    assert page.faults == []
    assert "The operator log has it." in page.text
    assert "What operators did" in page.text
    assert await pg.fetchval("SELECT state FROM relay.events WHERE id = $1", inbox_id) == after
    rows = await pg.fetch("SELECT who, action, reason FROM relay.operator_log")
    assert [tuple(row) for row in rows] == [("dashboard", logged, "the fix is out")]
    if action == "retry":
        queued = "SELECT visible_at IS NULL FROM relay.queue WHERE inbox_id = $1"
        assert await pg.fetchval(queued, inbox_id)
    log = await read(dashboard, "/operator-log")
    assert f"dashboard {logged}" in log.text


async def test_only_what_fits_is_offered(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await one_of_each(pg, source_id)
    offered = {
        "pending": ["retry", "skip"],
        "retrying": ["retry", "skip"],
        "dead": ["replay", "discard"],
        "skipped": ["replay"],
        "delivered": ["replay"],
    }
    client = dashboard.client(OPERATOR)
    for state, possible in offered.items():
        shown = (await client.get(f"/api/events/{ids[state]}")).json()
        assert shown["possible"] == possible
        for action in {"retry", "skip", "replay", "discard"} - set(possible):
            answer = await client.post(
                f"/api/events/{ids[state]}/{action}", json={"reason": "because"}
            )
            assert answer.status_code == 409
            assert f"is {state}: what can be done is" in answer.json()["detail"]
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_an_event_that_is_none_is_never_sent(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    wrong = new_event(source_id, "rejected:00", event_type=None, object_id=None, body=b"[")
    (inbox_id,) = await store(pg, wrong)
    await bury(pg, inbox_id, code="invalid_json")
    page = await read(dashboard, f"/events/{inbox_id}")
    assert [a["action"].rpartition("/")[2] for a in page.tags("form") if a.get("method")] == [
        "discard"
    ]
    answer = await dashboard.client(OPERATOR).post(
        f"/api/events/{inbox_id}/replay", json={"reason": "x"}
    )
    assert answer.status_code == 409
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_a_reason_is_needed(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser()
    token = await csrf_token(browser, "/")
    for reason in ("", "   ", "x" * 1001):
        form = {"reason": reason, "csrf_token": token}
        answer = await browser.post(f"/events/{inbox_id}/retry", data=form)
        assert answer.status_code == 400, reason
        assert "reason:" in Page(answer.text).text
    assert (await browser.post(f"/events/{inbox_id}/retry", data={"csrf_token": token})).is_error
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_an_overtaken_replay_warns(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, new_event(source_id), new_event(source_id))
    for each in ids:
        await deliver(pg, each)
    browser = await dashboard.browser()
    form = {"reason": "again", "csrf_token": await csrf_token(browser, "/")}
    answer = await browser.post(f"/events/{ids[0]}/replay", data=form, follow_redirects=True)
    assert "consumers see the older state once more" in Page(answer.text).text


# --- dead letters, log ------------------------------------------------------------------------


async def test_dead_letters_are_grouped_by_error(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, *(new_event(source_id) for _ in range(3)))
    await bury(pg, *ids[:2], code="too_large")
    await bury(pg, ids[2], code="no_route")
    page = await read(dashboard, "/dead-letters")
    assert "too_large shop 2" in page.text
    assert "no_route shop 1" in page.text
    page = await read(dashboard, "/dead-letters?error=no_route&source=shop")
    events = [a["href"] for a in page.tags("a") if a.get("class") == "mono id"]
    assert events == [f"/events/{ids[2]}"]


async def test_the_operator_log_is_paged(dashboard: Served, pg: asyncpg.Connection) -> None:
    await pg.execute(
        "INSERT INTO relay.operator_log (who, action, target, reason)"
        " SELECT 'ann', 'event.retry', 't' || n, 'because' FROM generate_series(1, 60) n"
    )
    page = await read(dashboard, "/operator-log")
    assert "t60" in page.text
    assert "t10 " not in page.text
    (onward,) = [a["href"] for a in page.tags("a") if "before=" in a["href"]]
    page = await read(dashboard, onward)
    assert "t10 " in page.text
