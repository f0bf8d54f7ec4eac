"""Who gets in, who may change something, and what no other site can make a browser do."""

from __future__ import annotations

import re

import asyncpg
import httpx
import pytest

from relay.admin import gate
from relay.admin.access import SESSION_SECONDS, Throttle, Tokens, name_of
from relay.admin.gate import is_loopback
from tests.admin.reader import Page
from tests.admin.world import LISTS, LOCKED, OPERATOR, PAGES, VIEWER, Served, csrf_token, served
from tests.store.rows import new_event, store

FREE = ("/livez", "/readyz")
ACTIONS = ("retry", "skip", "replay", "discard")


# --- sessions ---------------------------------------------------------------------------------


def test_a_session_holds_its_role_and_not_the_token() -> None:
    tokens = Tokens(OPERATOR, VIEWER)
    for role, token in (("operator", OPERATOR), ("viewer", VIEWER)):
        assert tokens.role_of(token) == role
        cookie = tokens.begin(role)
        assert token not in cookie
        access = tokens.read(cookie)
        assert access is not None
        assert access.role == role
        assert access.may_change == (role == "operator")
    assert tokens.role_of("") is None
    assert tokens.role_of(OPERATOR + "x") is None
    assert tokens.role_of("\ud800") is None


def test_any_process_with_the_token_knows_a_session() -> None:
    cookie = Tokens(OPERATOR, VIEWER).begin("operator")
    other = Tokens(OPERATOR, None).read(cookie)
    assert other == Tokens(OPERATOR, VIEWER).read(cookie) is not None


def test_a_changed_token_ends_its_sessions_and_those_of_the_other_stay() -> None:
    before = Tokens(OPERATOR, VIEWER)
    operator, viewer = before.begin("operator"), before.begin("viewer")
    after = Tokens("another", VIEWER)
    assert after.read(operator) is None
    assert after.read(viewer) is not None
    assert Tokens(OPERATOR, None).read(viewer) is None


def test_a_session_ends() -> None:
    now = [1_000_000.0]
    tokens = Tokens(OPERATOR, clock=lambda: now[0])
    cookie = tokens.begin("operator")
    now[0] += SESSION_SECONDS - 1
    assert tokens.read(cookie) is not None
    now[0] += 1
    assert tokens.read(cookie) is None


def test_an_altered_session_is_none() -> None:
    tokens = Tokens(OPERATOR, VIEWER)
    cookie = tokens.begin("viewer")
    role, ends, nonce, name, signature = cookie.split(".")
    for wrong in (
        f"operator.{ends}.{nonce}.{name}.{signature}",
        f"{role}.{int(ends) + 1}.{nonce}.{name}.{signature}",
        f"{role}.{ends}.{'0' * 32}.{name}.{signature}",
        f"{role}.{ends}.{nonce}.{b'eve'.hex()}.{signature}",
        f"{role}.{ends}.{nonce}.{name}.{'0' * 64}",
        f"{role}.{ends}.{nonce}.{name}",
        f"{role}.{ends}.{nonce}.{signature}",
        cookie + "0",
        "",
    ):
        assert tokens.read(wrong) is None, wrong


def test_open_sessions_of_one_process_are_unknown_to_another() -> None:
    cookie = Tokens(None).begin("operator")
    assert Tokens(None).read(cookie) is None


def test_an_address_is_closed_after_too_many_failures_and_opens_again() -> None:
    now = [0.0]
    throttle = Throttle(clock=lambda: now[0])
    for _ in range(Throttle.MOST):
        assert not throttle.is_closed("192.0.2.1")
        throttle.note("192.0.2.1")
    assert throttle.is_closed("192.0.2.1")
    assert not throttle.is_closed("192.0.2.2")
    now[0] += Throttle.SECONDS
    assert not throttle.is_closed("192.0.2.1")


# --- logging in -------------------------------------------------------------------------------


async def test_nothing_is_shown_before_the_login(dashboard: Served) -> None:
    stranger = dashboard.client()
    for path in (*PAGES, "/events/1", "/events/1/body", "/search?q=1", "/nothing"):
        answer = await stranger.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login?next=/"), path
    for path in (*LISTS, "/schema", "/api/events/1", "/api/nothing"):
        answer = await stranger.get(path)
        assert answer.status_code == 401, path
        assert answer.json()["error"] == "unauthorized"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    for path in (*(f"/events/1/{each}" for each in ACTIONS), "/logout"):
        assert (await stranger.post(path)).status_code == 401, path
    for path in (f"/api/events/1/{each}" for each in ACTIONS):
        assert (await stranger.post(path, json={"reason": "x"})).status_code == 401, path


async def test_health_needs_no_login(dashboard: Served) -> None:
    for path in FREE:
        answer = await dashboard.client(host="probe.example.com").get(path)
        assert answer.status_code == 200, path


async def test_a_login_leads_to_where_one_wanted_to_go(dashboard: Served) -> None:
    browser = dashboard.client()
    asked = await browser.get("/events?state=dead&type=customer.*", follow_redirects=True)
    assert asked.url.path == "/login"
    there = re.findall(r'name="next" value="([^"]+)"', asked.text)
    assert there == ["/events?state=dead&amp;type=customer.*"]
    form = {"token": VIEWER, "next": "/events?state=dead&type=customer.*"}
    answer = await browser.post("/login", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, form["next"])
    assert (await browser.get("/events")).status_code == 200


async def test_a_link_on_another_site_leads_here_by_a_page_of_ours(dashboard: Served) -> None:
    """A browser keeps the cookie back, SameSite=Strict, until a page of ours leads there."""
    from_elsewhere = {"sec-fetch-site": "cross-site"}
    url = "/events?type=%22%3E%3Cscript%3E&state=dead"
    answer = await dashboard.client().get(url, headers=from_elsewhere)
    assert answer.status_code == 200
    page = Page(answer.text)
    assert page.faults == []
    (refresh,) = [a["content"] for a in page.tags("meta") if a.get("http-equiv") == "refresh"]
    assert refresh == f"0;url={url}"
    assert (await dashboard.client().get("/api/events", headers=from_elsewhere)).status_code == 401
    ours = {"sec-fetch-site": "same-origin"}
    assert (await dashboard.client().get(url, headers=ours)).status_code == 303
    for away in (b"//evil.example/x", b"/\\evil.example/x"):
        there = httpx.URL(dashboard.base_url).copy_with(raw_path=away)
        answer = await dashboard.client().get(there, headers=from_elsewhere)
        assert 'content="0;url=/"' in answer.text


@pytest.mark.parametrize(
    "there", ["https://evil.example", "//evil.example", "/\\evil.example", "/\x0d\x0ax", "x", "/é"]
)
async def test_a_login_leads_nowhere_else(dashboard: Served, there: str) -> None:
    answer = await dashboard.client().post("/login", data={"token": OPERATOR, "next": there})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_the_cookie_is_out_of_reach(dashboard: Served) -> None:
    answer = await dashboard.client().post("/login", data={"token": OPERATOR})
    cookie = answer.headers["set-cookie"]
    assert OPERATOR not in cookie
    parts = [part.strip() for part in cookie.split(";")]
    port = dashboard.base_url.rpartition(":")[2]
    assert parts[0].startswith(f"relay_session_{port}=operator.")
    assert parts[1:] == ["Path=/", f"Max-Age={SESSION_SECONDS}", "HttpOnly", "SameSite=Strict"]
    behind_tls = dashboard.client(**{"x-forwarded-proto": "https"})
    answer = await behind_tls.post("/login", data={"token": OPERATOR})
    assert answer.headers["set-cookie"].endswith("; Secure")


async def test_a_wrong_token_is_told_apart_from_nothing(
    dashboard: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Throttle, "MOST", 3)
    browser = dashboard.client()
    said = set()
    for wrong in ("", "wrong", OPERATOR[:-1]):
        answer = await browser.post("/login", data={"token": wrong})
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        said.add(re.sub(r"\s+", " ", answer.text))
    assert len(said) == 1
    # Now even the right one is not looked at, for a minute, here and at the API.
    assert (await browser.post("/login", data={"token": OPERATOR})).status_code == 429
    assert (await dashboard.client(OPERATOR).get("/api/overview")).status_code == 429


async def test_a_logout_ends_it(dashboard: Served) -> None:
    browser = await dashboard.browser(VIEWER)
    token = await csrf_token(browser, "/")
    answer = await browser.post("/logout", data={"csrf_token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert (await browser.get("/")).status_code == 303


async def test_a_viewer_may_log_in_as_operator(dashboard: Served) -> None:
    browser = await dashboard.browser(VIEWER)
    assert (await browser.get("/login")).status_code == 200
    assert (await browser.post("/login", data={"token": OPERATOR})).status_code == 303
    assert ">operator<" in (await browser.get("/")).text


async def test_a_bearer_token_opens_the_api(dashboard: Served) -> None:
    for token in (OPERATOR, VIEWER):
        for path in (*LISTS, "/schema"):
            assert (await dashboard.client(token).get(path)).status_code == 200, path
    answer = await dashboard.client("wrong").get("/api/events")
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


# --- what no other site can do ----------------------------------------------------------------


async def test_a_form_needs_its_session_s_token(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser()
    of_another = await csrf_token(await dashboard.browser(), "/")
    good = await csrf_token(browser, f"/events/{inbox_id}")
    assert good not in (of_another, "")
    for action in ACTIONS:
        for wrong in ({}, {"csrf_token": ""}, {"csrf_token": of_another}, {"csrf_token": "é"}):
            form = {"reason": "because"} | wrong
            answer = await browser.post(f"/events/{inbox_id}/{action}", data=form)
            assert answer.status_code == 403, (action, wrong)
            answer = await browser.post(f"/api/events/{inbox_id}/{action}", json=form)
            assert answer.json()["error"] == "wrong_csrf_token"
        as_text = {"content-type": "text/plain"}
        answer = await browser.post(
            f"/events/{inbox_id}/{action}", content=f"csrf_token={good}", headers=as_text
        )
        assert answer.status_code == 403
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0
    form = {"reason": "because", "csrf_token": good}
    assert (await browser.post(f"/events/{inbox_id}/retry", data=form)).status_code == 303


async def test_a_script_of_ours_may_call_the_api(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser()
    header = {"x-csrf-token": await csrf_token(browser, "/")}
    url = f"/api/events/{inbox_id}/retry"
    answer = await browser.post(url, json={"reason": "because"}, headers=header)
    assert (answer.status_code, answer.json()["action"]) == (200, "retry")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
async def test_another_site_is_refused(
    dashboard: Served,
    pg: asyncpg.Connection,
    source_id: int,
    headers: dict[str, str],
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser()
    form = {"reason": "because", "csrf_token": await csrf_token(browser, "/")}
    url = f"/events/{inbox_id}/retry"
    assert (await browser.post(url, data=form, headers=headers)).status_code == 403
    login = await dashboard.client().post("/login", data={"token": OPERATOR}, headers=headers)
    assert login.status_code == 403
    ours = {"origin": dashboard.base_url, "sec-fetch-site": "same-origin"}
    assert (await browser.post(url, data=form, headers=ours)).status_code == 303


async def test_a_viewer_changes_nothing(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    browser = await dashboard.browser(VIEWER)
    page = await browser.get(f"/events/{inbox_id}")
    assert page.status_code == 200
    assert 'name="reason"' not in page.text
    token = await csrf_token(browser, "/")
    for action in ACTIONS:
        form = {"reason": "because", "csrf_token": token}
        assert (await browser.post(f"/events/{inbox_id}/{action}", data=form)).status_code == 403
        answer = await dashboard.client(VIEWER).post(
            f"/api/events/{inbox_id}/{action}", json={"reason": "because"}
        )
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert await pg.fetchval("SELECT count(*) FROM relay.operator_log") == 0


async def test_every_answer_says_what_may_be_loaded(dashboard: Served) -> None:
    browser = await dashboard.browser()
    stranger = dashboard.client()
    answers = [await browser.get(path) for path in (*PAGES, *LISTS, "/schema", "/nothing")]
    answers += [await stranger.get("/login"), await stranger.get("/"), await stranger.post("/x")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy == gate.CONTENT_POLICY
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    style = await stranger.get("/static/dashboard.css")
    assert style.status_code == 200
    assert style.headers["x-content-type-options"] == "nosniff"


# --- without a token --------------------------------------------------------------------------


def test_only_names_of_this_machine_are_loopback() -> None:
    for host in ("localhost", "x.localhost", "127.0.0.1", "127.9.9.9", "::1"):
        assert is_loopback(host), host
    for host in ("", "relay.example.com", "127.0.0.1.example.com", "0.0.0.0", "10.0.0.1", "::"):
        assert not is_loopback(host), host


async def test_without_a_token_only_this_machine_is_let_in(
    database_url: str, pg: asyncpg.Connection, source_id: int
) -> None:
    (inbox_id,) = await store(pg, new_event(source_id))
    async with served(database_url) as world:
        port = world.base_url.rpartition(":")[2]
        browser = world.client()
        assert (await browser.get("/")).status_code == 200
        assert (await browser.get("/login")).headers["location"] == "/"
        for host in ("evil.example", f"rebound.example:{port}", "10.0.0.1", "", "[", "127.0.0.1."):
            for path in ("/", "/api/events", "/static/dashboard.js"):
                answer = await world.client(host=host).get(path)
                assert answer.status_code == 403, (host, path)
        assert (await world.client(host=f"localhost:{port}").get("/")).status_code == 200

        url, form = f"/events/{inbox_id}/retry", {"reason": "because"}
        assert (await browser.post(url, data=form)).status_code == 403
        assert (await world.client().post(url, data=form)).status_code == 403
        form["csrf_token"] = await csrf_token(browser, f"/events/{inbox_id}")
        evil = {"origin": "https://evil.example"}
        assert (await browser.post(url, data=form, headers=evil)).status_code == 403
        assert (await browser.post(url, data=form)).status_code == 303
        # No other site can have a browser send this header.
        answer = await world.client("any").post(f"/api{url}", json={"reason": "because"})
        assert answer.status_code == 200


async def test_with_a_token_any_name_is_good(database_url: str) -> None:
    async with served(database_url, **LOCKED) as world:
        answer = await world.client(OPERATOR, host="relay.example.com").get("/api/overview")
        assert answer.status_code == 200


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("ana", "ana"),
        ("  Åsa \n Öberg ", "Åsa Öberg"),
        ("\x1b[31mred\u202e", "[31mred"),
        ("x" * 200, "x" * 60),
        ("\U0001f600" * 60, "\U0001f600" * 60),
        ("", ""),
    ],
)
def test_a_session_keeps_the_name_that_was_given(given: str, kept: str) -> None:
    tokens = Tokens(OPERATOR)
    cookie = tokens.begin("operator", name_of(given))
    found = tokens.read(cookie)
    assert found is not None
    assert found.name == kept
    assert found.who == (f"{kept} (dashboard)" if kept else "dashboard")
    head, number, _, signature = cookie.rsplit(".", 3)
    assert tokens.read(f"{head}.{number}.{b'eve'.hex()}.{signature}") is None


async def test_who_acts_is_in_the_operator_log(
    dashboard: Served, pg: asyncpg.Connection, source_id: int
) -> None:
    (event,) = await store(pg, new_event(source_id, "evt_1"))
    browser = dashboard.client()
    answer = await browser.post("/login", data={"token": OPERATOR, "name": "Åsa"})
    assert answer.status_code == 303
    form = {"reason": "a", "csrf_token": await csrf_token(browser, f"/events/{event}")}
    assert (await browser.post(f"/events/{event}/retry", data=form)).status_code == 303
    program = dashboard.client(OPERATOR)
    named = {"x-relay-operator": "nightly \u00e9".encode()}
    for headers in (named, {}):
        answer = await program.post(
            f"/api/events/{event}/retry", json={"reason": "b"}, headers=headers
        )
        assert answer.status_code == 200, answer.text
    rows = await pg.fetch("SELECT who FROM relay.operator_log ORDER BY id")
    assert [row["who"] for row in rows] == ["Åsa (dashboard)", "nightly é (API)", "API"]
