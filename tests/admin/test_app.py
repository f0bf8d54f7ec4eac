"""The dashboard belongs to the role admin, and to the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import httpx
import pytest
from hatchling.builders.wheel import WheelBuilder

from relay.admin import assets
from relay.app import Role, running
from relay.settings import Address, Settings
from tests.admin.reader import Page
from tests.support.logins import as_login

ROOT = Path(__file__).resolve().parents[2]


def _settings(database_url: str, login: str) -> Settings:
    return Settings(
        database_url=as_login(database_url, login),
        bind=Address("127.0.0.1", 0),
        admin_bind=Address("127.0.0.1", 0),
    )


async def test_with_the_role_admin_the_port_has_it_all(direct_url: str) -> None:
    # Behind a pooler the server does not know which process a connection is of.
    async with running(_settings(direct_url, "admin"), ("admin",)) as app:
        assert app.admin is not None
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.admin.address[1]}") as client:
            for path in ("/livez", "/readyz", "/metrics", "/schema", "/api/events", "/events"):
                assert (await client.get(path)).status_code == 200, path
            page = Page((await client.get("/")).text)
            assert page.faults == []
            assert "relay-admin" in page.text


@pytest.mark.parametrize("roles", [("receiver",)])
async def test_without_it_only_health_and_metrics(
    database_url: str, roles: tuple[Role, ...]
) -> None:
    async with running(_settings(database_url, "receiver"), roles) as app:
        assert app.admin is not None
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.admin.address[1]}") as client:
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await client.get(path)).status_code == 200, path
            for path in ("/", "/login", "/events", "/api/events", "/schema", "/static/icon.svg"):
                assert (await client.get(path)).status_code == 404, path


def test_what_it_shows_is_in_the_wheel() -> None:
    builder = WheelBuilder(str(ROOT))
    packed = {each.distribution_path for each in builder.recurse_included_files()}
    for folder, ending in (("html", "*.html"), ("static", "*")):
        there = list((ROOT / "relay" / "admin" / folder).glob(ending))
        assert len(there) >= 3
        for path in there:
            assert f"relay/admin/{folder}/{path.name}" in packed


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_left_over() -> None:
    static = files("relay.admin") / "static"
    assert {each.name for each in static.iterdir()} == assets.CONTENT.keys()
    for name, content in assets.CONTENT.items():
        if name != "icon.svg":  # its namespace is a URL
            assert b"://" not in content, name
            assert b"@import" not in content, name
            assert b"url(" not in content, name
    for each in (files("relay.admin") / "html").iterdir():
        assert "://" not in each.read_text("utf-8"), each.name
        assert "|safe" not in each.read_text("utf-8"), each.name
