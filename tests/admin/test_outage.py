"""The database away, without a schema, and with a role that may not: told, and never a crash."""

from __future__ import annotations

import asyncpg
import pytest

from tests.admin.reader import Page
from tests.admin.world import LISTS, LOCKED, OPERATOR, PAGES, Served, csrf_token, served

NOWHERE = "postgresql://nobody:canary-password@127.0.0.1:1/nothing"


async def _is_told(world: Served, code: str, word: str) -> None:
    client = world.client(OPERATOR)
    for path in ("/events", "/events/1", "/objects?id=cus_1", "/dead-letters", "/operator-log"):
        answer = await client.get(path)
        assert answer.status_code == 503, path
        page = Page(answer.text)
        assert page.faults == []
        assert word in page.text, path
        assert "canary" not in answer.text
    for path in (*LISTS[1:], "/api/events/1"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error"]) == (503, code), path
        assert word in answer.json()["detail"]
        assert "canary" not in answer.text
    answer = await client.post("/api/events/1/retry", json={"reason": "because"})
    assert (answer.status_code, answer.json()["error"]) == (503, code)


async def test_the_database_is_away(capfd: pytest.CaptureFixture[str]) -> None:
    async with served(NOWHERE, **LOCKED) as world:
        await _is_told(world, "database_away", "The database cannot be reached")
        client = world.client(OPERATOR)
        page = Page((await client.get("/")).text)
        assert page.faults == []
        assert "The database cannot be reached" in page.text
        for unknown in ("Pending –", "Retrying –", "Dead (failed) –", "Oldest waiting –"):
            assert unknown in page.text
        assert "Nothing has failed" not in page.text
        assert "There is no source yet" not in page.text
        shown = (await client.get("/api/overview")).json()
        assert shown["database"]["reachable"] is False
        assert (shown["sources"], shown["services"], shown["snapshots"]) == (None, None, None)
        # Who may look is told without it.
        browser = await world.browser()
        assert (await browser.get("/login")).headers["location"] == "/"
        form = {"reason": "because", "csrf_token": await csrf_token(browser, "/")}
        assert (await browser.post("/events/1/skip", data=form)).status_code == 503
        assert (await client.get("/static/dashboard.css")).status_code == 200
    said = capfd.readouterr()
    assert "canary" not in said.out + said.err
    assert "Traceback" not in said.out + said.err


async def test_it_comes_back(database_url: str, direct_url: str) -> None:
    async with served(database_url, **LOCKED) as world:
        client = world.client(OPERATOR)
        assert (await client.get("/api/events")).status_code == 200
        pg = await asyncpg.connect(direct_url)
        await pg.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await pg.close()
        # At most the connections that were ended are met with.
        answers = [(await client.get("/api/events")).status_code for _ in range(12)]
        assert set(answers) <= {200, 503}
        assert answers[-1] == 200


async def test_there_is_no_schema(empty_database_url: str) -> None:
    async with served(empty_database_url, **LOCKED) as world:
        await _is_told(world, "unavailable", "relay migrate")
        page = await world.client(OPERATOR).get("/")
        assert page.status_code == 200
        assert "does not tell what is unfinished" in page.text


async def test_the_role_may_not(database_url: str, direct_url: str) -> None:
    pg = await asyncpg.connect(direct_url)
    await pg.execute("REVOKE ALL ON ALL TABLES IN SCHEMA relay FROM relay_admin")
    await pg.close()
    async with served(database_url, **LOCKED) as world:
        client = world.client(OPERATOR)
        answer = await client.get("/api/events")
        assert answer.status_code == 503
        assert "relay_admin" in answer.json()["detail"]
        for path in PAGES[:2]:
            assert (await client.get(path)).status_code == 200
