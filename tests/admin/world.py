"""The dashboard, served on a real database by a login with no more rights than it must have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from relay.admin import AdminServer, Dashboard
from relay.health import Health
from relay.settings import Settings
from relay.store.engine import Database
from tests.support.logins import as_login

OPERATOR = "token-of-the-operator"
VIEWER = "token-of-a-viewer"
LOCKED = {"admin_token": OPERATOR, "admin_viewer_token": VIEWER}

PAGES = (
    "/",
    "/parts/overview",
    "/events",
    "/dead-letters",
    "/dead-letters/discard?error=no_route",
    "/operator-log",
    "/replays",
    "/replays/new?of=events",
    "/snapshots",
    "/sources",
    "/sources/new",
    "/objects?id=cus_1",
)
LISTS = (
    "/api/overview",
    "/api/events",
    "/api/objects/cus_1",
    "/api/dead-letters",
    "/api/operator-log",
    "/api/replays",
    "/api/snapshots",
    "/api/sources",
)


class Served:
    """Where it is, and clients of it."""

    def __init__(self, dashboard: Dashboard, base_url: str, database_url: str) -> None:
        self.dashboard = dashboard
        self.base_url = base_url
        self.database_url = database_url
        self._clients: list[httpx.AsyncClient] = []

    def client(self, token: str | None = None, **headers: str) -> httpx.AsyncClient:
        """One without a session; ``token`` is a bearer token."""
        given = {"authorization": f"Bearer {token}"} if token else {}
        made = httpx.AsyncClient(base_url=self.base_url, headers=given | headers, timeout=30)
        self._clients.append(made)
        return made

    async def browser(self, token: str = OPERATOR) -> httpx.AsyncClient:
        """One that has logged in."""
        made = self.client()
        answer = await made.post("/login", data={"token": token})
        assert answer.status_code == 303, answer.text
        return made

    async def close(self) -> None:
        for each in self._clients:
            await each.aclose()


@asynccontextmanager
async def served(database_url: str, **settings: Any) -> AsyncIterator[Served]:
    """``settings`` are those of the dashboard; without a token everybody is an operator."""
    database = Database(as_login(database_url, "admin"), pool_size=5)
    dashboard = Dashboard(database, Settings(**settings))
    server = AdminServer(Health(database).routes(), dashboard)
    await server.start("127.0.0.1", 0)
    host, port = server.address
    made = Served(dashboard, f"http://{host}:{port}", database_url)
    try:
        yield made
    finally:
        await made.close()
        await server.stop()
        await dashboard.watch.close()
        await database.close()


async def csrf_token(browser: httpx.AsyncClient, path: str) -> str:
    """That of a form on a page."""
    page = (await browser.get(path)).text
    return page.partition('name="csrf_token" value="')[2].partition('"')[0]
