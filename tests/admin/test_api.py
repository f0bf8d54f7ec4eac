"""What programs are answered: what is there, and what is wrong with a request; never a 5xx."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from relay.admin.overview import Overview
from relay.admin.schema import Entries, EventProof, Events, Timeline
from tests.admin.world import OPERATOR, Served
from tests.store.rows import bury, deliver, new_event, store

ACTIONS = ("retry", "skip", "replay", "discard")


async def get(dashboard: Served, path: str, status: int = 200) -> Any:
    answer = await dashboard.client(OPERATOR).get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


async def test_an_event_is_told_as_its_view_has_it(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    event = new_event(source_id, "evt_1", object_id="cus_7")
    (inbox_id,) = await store(pg, event)
    await deliver(pg, inbox_id)
    found = await get(dashboard, "/api/events?event_id=evt_1")
    assert found["next"] is None
    (shown,) = found["events"]
    row = await pg.fetchrow("SELECT * FROM relay.events")
    assert row is not None
    assert shown.keys() == set(row.keys())
    assert shown["body_sha256"] == event.body_sha256.hex()
    assert (shown["id"], shown["state"], shown["source"]) == (inbox_id, "delivered", "shop")

    proof = await get(dashboard, f"/api/events/{inbox_id}")
    assert proof["event"] == shown
    assert proof["body"].encode() == event.body
    (receipt,) = proof["receipts"]
    assert (receipt["topic"], receipt["partition"], receipt["offset"]) == ("customer", 0, 100)
    timeline = await get(dashboard, "/api/objects/cus_7")
    assert timeline["events"] == [{"event": shown, "topics": ["customer"]}]


async def test_what_is_answered_is_what_is_described(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    ids = await store(pg, new_event(source_id, "evt_1"), new_event(source_id, "evt_2"))
    await bury(pg, ids[1])
    client = dashboard.client(OPERATOR)
    await client.post(f"/api/events/{ids[0]}/retry", json={"reason": "because"})
    for path, struct in (
        ("/api/overview", Overview),
        ("/api/events", Events),
        (f"/api/events/{ids[1]}", EventProof),
        ("/api/objects/cus_1", Timeline),
        ("/api/operator-log", Entries),
    ):
        msgspec.json.decode((await client.get(path)).content, type=struct)


async def test_the_schema_has_every_path_and_every_way_to_fail(dashboard: Served) -> None:
    answer = await dashboard.client(OPERATOR).get("/schema")
    schema = json.loads(answer.content)
    assert schema["openapi"].startswith("3.1")
    reading = {"overview", "events", "events/{inbox_id}", "objects/{object_id}"}
    reading |= {"dead-letters", "operator-log", "replays", "replays/{replay_id}"}
    reading |= {"snapshots", "snapshots/{snapshot_id}", "events/{inbox_id}/records"}
    changing = {f"events/{{inbox_id}}/{action}" for action in ACTIONS}
    changing |= {"replays", "replays/{replay_id}/cancel", "snapshots", "dead-letters/discard"}
    changing |= {f"snapshots/{{snapshot_id}}/{name}" for name in ("pause", "resume", "cancel")}
    reading |= {"sources", "sources/{name}"}
    of_sources = ("pause", "resume", "rotate-key", "delete")
    changing |= {"sources"} | {f"sources/{{name}}/{name}" for name in of_sources}
    told = {
        (method, path): each
        for path, methods in schema["paths"].items()
        for method, each in methods.items()
    }
    wanted = {("get", f"/api/{name}") for name in reading}
    wanted |= {("post", f"/api/{name}") for name in changing} | {("patch", "/api/sources/{name}")}
    assert told.keys() == wanted
    for (method, path), each in told.items():
        begun = {"/api/replays": "202", "/api/snapshots": "201", "/api/sources": "201"}
        done = begun.get(path, "200") if method == "post" else "200"
        assert {done, "401", "503"} <= each["responses"].keys()
        assert each["summary"]
        if method != "get":
            assert {"400", "403", "409"} <= each["responses"].keys()
            assert ("404" in each["responses"]) == ("{" in path)
    names = {each["name"] for each in schema["paths"]["/api/events"]["get"]["parameters"]}
    assert names == {
        *("event_id", "type", "object", "state", "error", "source"),
        *("since", "until", "before", "limit"),
    }
    assert schema["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"}
    }


async def test_a_list_goes_on(dashboard: Served, pg: asyncpg.Connection, source_id: int) -> None:
    ids = await store(pg, *(new_event(source_id) for _ in range(5)))
    await bury(pg, *ids)
    for path, name in (
        ("/api/events?", "events"),
        ("/api/objects/cus_1?", "events"),
        ("/api/dead-letters?", "dead_letters"),
    ):
        seen, before = [], ""
        for rows in (2, 2, 1):
            found = await get(dashboard, f"{path}limit=2{before}")
            assert len(found[name]) == rows
            seen += [(each.get("event") or each)["id"] for each in found[name]]
            before = f"&before={found['next']}"
        assert found["next"] is None
        assert seen == sorted(seen, reverse=True)
        assert len(set(seen)) == 5


async def test_ids_with_any_character_are_found(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    for object_id in ("gold/monthly", "a//b", "ä ö?&#", "%2F", "x/"):
        (inbox_id,) = await store(pg, new_event(source_id, object_id=object_id))
        path = httpx.URL(dashboard.base_url).copy_with(
            raw_path=b"/api/objects/" + _quoted(object_id)
        )
        found = (await dashboard.client(OPERATOR).get(path)).json()
        assert found["object_id"] == object_id
        assert [each["event"]["id"] for each in found["events"]] == [inbox_id], object_id


def _quoted(text: str) -> bytes:
    return "".join(f"%{byte:02X}" for byte in text.encode()).encode()


async def test_actions_are_answered(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    waiting, settled, dead = await store(pg, *(new_event(source_id) for _ in range(3)))
    await deliver(pg, settled)
    await bury(pg, dead)
    client = dashboard.client(OPERATOR)
    for inbox_id, action in (
        (waiting, "retry"),
        (waiting, "skip"),
        (settled, "replay"),
        (dead, "discard"),
    ):
        answer = await client.post(f"/api/events/{inbox_id}/{action}", json={"reason": action})
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert (done["inbox_id"], done["action"]) == (inbox_id, action)
        assert (done["replay_id"] is not None) == (action == "replay")
    log = await get(dashboard, "/api/operator-log")
    assert [entry["reason"] for entry in log["entries"]] == ["discard", "replay", "skip", "retry"]
    assert {entry["who"] for entry in log["entries"]} == {"API"}
    (replayed,) = [entry for entry in log["entries"] if entry["action"] == "event.replay"]
    assert replayed["details"]["queued"] == {"count": 1, "ids": [settled]}


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("/api/events/0", 404, "no event 0"),
        ("/api/events/999999999999999999", 404, "no event 999999999999999999"),
        ("/api/events/99999999999999999999999", 404, "whole numbers"),
        ("/api/events/-1", 404, "whole numbers"),
        ("/api/events/%D9%A1", 404, "whole numbers"),
        ("/api/events/1%00", 404, "whole numbers"),
        ("/api/events/%FF", 404, "whole numbers"),
        ("/api/events?state=lost", 400, "state: 'lost'"),
        ("/api/events?state=%00", 400, "state: '\\x00'"),
        ("/api/events?source=none", 400, "source: none is named 'none'"),
        ("/api/events?source=%00", 400, "source: none is named"),
        ("/api/events?since=yesterday", 400, "since: 'yesterday'"),
        ("/api/events?since=10000-01-01", 400, "since:"),
        ("/api/events?until=9999-12-31T23:59:59-23:00", 400, "until:"),
        ("/api/events?since=0001-01-01T00:00:00%2B23:00", 400, "since:"),
        ("/api/events?since=%EF%BC%91h", 400, "since:"),
        ("/api/events?before=x", 400, "before: 'x'"),
        ("/api/events?before=-1", 400, "before: '-1'"),
        ("/api/events?before=99999999999999999999", 400, "before:"),
        ("/api/events?limit=0", 400, "limit: '0'"),
        ("/api/events?limit=501", 400, "from 1 to 500"),
        ("/api/events?limit=1e3", 400, "limit:"),
        ("/api/objects/cus_1?limit=x", 400, "limit:"),
        ("/api/objects/cus_1?before=x", 400, "before:"),
        ("/api/operator-log?before=x", 400, "before:"),
        ("/api/dead-letters?source=none", 400, "source:"),
        ("/api/nothing", 404, "nothing at this address"),
        ("/api", 404, "nothing at this address"),
    ],
)
async def test_what_cannot_be_is_named(
    dashboard: Served, source_id: int, path: str, status: int, named: str
) -> None:
    problem = await get(dashboard, path, status)
    assert problem.keys() == {"error", "detail"}
    assert named in problem["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "event_id=%00",
        "event_id=%ED%A0%80",
        "type=%00*",
        "type=" + "*%25_%5C" * 50,
        "object=%FF%FE",
        "error=%00",
        "since=99999999w",
        "since=0001-01-01&until=9999-12-01",
        "since=0",
        "before=0",
        "before=999999999999999999",
        "before=",
        "limit=",
        "state=",
        "state=&source=&type=",
        "unknown=1",
        "event_id=a&event_id=b",
        "&&=&%",
    ],
)
async def test_odd_questions_have_answers(dashboard: Served, source_id: int, query: str) -> None:
    for path in ("/api/events", "/api/dead-letters"):
        answer = await dashboard.client(OPERATOR).get(f"{path}?{query}")
        assert answer.status_code in (200, 400), (answer.status_code, answer.text)
        if answer.status_code == 400:
            assert answer.json().keys() == {"error", "detail"}
    for path in ("/events", "/dead-letters", "/objects", "/operator-log", "/search"):
        answer = await dashboard.client(OPERATOR).get(f"{path}?{query}")
        assert answer.status_code in (200, 303, 400, 404), (path, answer.text)


@pytest.mark.parametrize("object_id", ["%00", "%ED%A0%80", "%FF", "a" * 4000, "%2E%2E%2Fx"])
async def test_odd_objects_have_no_events(dashboard: Served, object_id: str) -> None:
    url = httpx.URL(dashboard.base_url).copy_with(raw_path=f"/api/objects/{object_id}".encode())
    answer = await dashboard.client(OPERATOR).get(url)
    assert (answer.status_code, answer.json()["events"]) == (200, [])


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"null", "application/json"),
        (b"[]", "application/json"),
        (b"{}", "application/json"),
        (b'{"reason": null}', "application/json"),
        (b'{"reason": 1}', "application/json"),
        (b'{"reason": ""}', "application/json"),
        (b'{"reason": " "}', "application/json"),
        (b'{"reason": "\\ud800"}', "application/json"),
        (b'{"reason": "\xff"}', "application/json"),
        (b"[" * 60_000, "application/json"),
        (b"reason=x", "application/x-www-form-urlencoded"),
        (b"reason", "multipart/form-data; boundary="),
        (b"\xff", "text/plain; charset=nothing"),
    ],
)
async def test_a_bad_body_is_refused(
    dashboard: Served,
    pg: asyncpg.Connection,
    source_id: int,
    content: bytes,
    content_type: str,
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    answer = await dashboard.client(OPERATOR, **{"content-type": content_type}).post(
        f"/api/events/{inbox_id}/retry", content=content
    )
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error", "detail"}
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_a_reason_may_have_any_text(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    answer = await dashboard.client(OPERATOR).post(
        f"/api/events/{inbox_id}/retry", json={"reason": "a\x00b\u202e"}
    )
    assert answer.status_code == 200, answer.text
    assert await pg.fetchval("SELECT reason FROM relay.operator_log") == "a\\0b\u202e"


async def test_too_much_is_refused(dashboard: Served) -> None:
    answer = await dashboard.client(OPERATOR).post(
        "/api/events/1/retry", json={"reason": "x" * 70_000}
    )
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")


async def test_no_event_and_no_way(dashboard: Served) -> None:
    client = dashboard.client(OPERATOR)
    for action in ACTIONS:
        for number in ("1", "999999999999999999", "x", "9" * 40):
            answer = await client.post(f"/api/events/{number}/{action}", json={"reason": "because"})
            assert answer.status_code == 404, answer.text
    for method, path in (("PUT", "/api/events"), ("DELETE", "/api/events/1"), ("POST", "/api/x")):
        answer = await client.request(method, path)
        assert answer.status_code in (404, 405)
        assert answer.json().keys() == {"error", "detail"}


async def test_who_waits_too_long_is_told(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has the lane of the event in hand: skipping waits for it, for a while."""
    monkeypatch.setattr("relay.admin.api._ACTION_SECONDS", 0.2)
    (inbox_id,) = await store(pg, new_event(source_id))
    async with pg.transaction():
        await pg.execute("SELECT FROM relay.lane FOR UPDATE")
        answer = await dashboard.client(OPERATOR).post(
            f"/api/events/{inbox_id}/skip", json={"reason": "because"}
        )
    assert (answer.status_code, answer.json()["error"]) == (409, "busy")
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_what_takes_too_long_is_given_up(
    dashboard: Served, pg: asyncpg.Connection, source_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.admin.desk.Desk.inbox.__wrapped__.__defaults__", (0.001,))
    await store(pg, *(new_event(source_id) for _ in range(300)))
    async with pg.transaction():
        await pg.execute("LOCK TABLE relay.receipt IN ACCESS EXCLUSIVE MODE")
        answer = await dashboard.client(OPERATOR).get("/api/events?type=invoice.*")
        page = await dashboard.client(OPERATOR).get("/events?type=invoice.*")
    assert (answer.status_code, answer.json()["error"]) == (400, "too_broad")
    assert page.status_code == 400
    assert "narrow it down" in page.text


async def test_many_at_once_are_all_answered(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    await store(pg, *(new_event(source_id) for _ in range(20)))
    client = dashboard.client(OPERATOR)
    answers = await asyncio.gather(
        *(client.get(path) for path in ("/api/overview", "/api/events", "/") for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
