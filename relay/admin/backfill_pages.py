"""The pages about snapshots."""

from __future__ import annotations

from typing import Any, get_args

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from relay.admin import api, query
from relay.admin.backfills import Backfills, Choice, possible_actions
from relay.admin.desk import Desk
from relay.admin.pages import fields_of, form_of, page, see
from relay.store import sources
from relay.store.failures import DATABASE_FAILURES
from relay.store.snapshots import Action

_Asking = Request[Any, Any, Any]


def routes(desk: Desk, backfills: Backfills) -> list[HTTPRouteHandler]:
    """The handlers."""

    async def shown(request: _Asking, name: str, snapshot_id: str) -> Response[str]:
        found, progress = await backfills.show(snapshot_id)
        held_up: bool | None = None
        if found.state == "running":
            try:
                held_up = await backfills.is_held_up()
            except DATABASE_FAILURES:
                held_up = None
        return page(
            request,
            name,
            snapshot=found,
            progress=progress,
            held_up=held_up,
            possible=possible_actions(found),
        )

    @get("/snapshots", include_in_schema=False)
    async def list_snapshots(request: _Asking) -> Response[str]:
        async with desk.inbox() as connection:
            names = [each.name for each in await sources.list_configs(connection)]
        found = await backfills.page(request.query_params.get("source"), query.PAGE_ROWS)
        return page(request, "snapshots.html", found=found, sources=names)

    @get("/snapshots/new", include_in_schema=False)
    async def ask(request: _Asking) -> Response[str]:
        source = request.query_params.get("source", "")
        possible = await backfills.possible(source)
        return page(request, "snapshot_form.html", source=source, possible=possible)

    @post("/snapshots", include_in_schema=False)
    async def start(request: _Asking) -> Response[None]:
        fields = await fields_of(request)
        form = {name: each[-1] for name, each in fields.items()}
        operator = api.operator(request, form.get("reason"))
        choice = Choice(
            source=form.get("source", ""),
            resources=fields.get("resource", []),
            created_after=form.get("created_after"),
            created_before=form.get("created_before"),
            per_customer="per_customer" in form,
        )
        started = await backfills.start(choice, operator)
        return see(f"/snapshots/{started.id}")

    @get("/snapshots/{snapshot_id:str}", include_in_schema=False)
    async def show(request: _Asking, snapshot_id: FromPath[str]) -> Response[str]:
        return await shown(request, "snapshot.html", snapshot_id)

    @get("/parts/snapshots/{snapshot_id:str}", include_in_schema=False)
    async def part(request: _Asking, snapshot_id: FromPath[str]) -> Response[str]:
        return await shown(request, "snapshot_part.html", snapshot_id)

    changes = [_changing(backfills, action) for action in get_args(Action)]
    return [list_snapshots, ask, start, show, part, *changes]


def _changing(backfills: Backfills, action: Action) -> HTTPRouteHandler:
    @post(f"/snapshots/{{snapshot_id:str}}/{action}", include_in_schema=False)
    async def change(request: _Asking, snapshot_id: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        await backfills.change(snapshot_id, action, operator)
        return see(f"/snapshots/{snapshot_id}")

    return change
