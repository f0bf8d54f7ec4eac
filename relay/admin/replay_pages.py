"""The pages about replays: what would be sent again, how far it is, and its end."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from relay.admin import api, bulk, query
from relay.admin.desk import Desk
from relay.admin.pages import form_of, page, see
from relay.admin.templates import link
from relay.store import runs

_Asking = Request[Any, Any, Any]


def routes(desk: Desk, replayer: bulk.Replayer, glances: bulk.Glances) -> list[HTTPRouteHandler]:
    """The handlers of the pages; a replay that is begun here goes on by ``replayer``."""

    async def found_as(request: _Asking, name: str, replay_id: str) -> Response[str]:
        told, progress = await glances.find(replay_id)
        return page(request, name, replay=told, progress=progress)

    @get("/replays", include_in_schema=False)
    async def list_replays(request: _Asking) -> Response[str]:
        async with desk.inbox() as connection:
            found = await runs.list_replays(connection, limit=query.PAGE_ROWS)
        return page(request, "replays.html", found=found)

    @get("/replays/new", include_in_schema=False)
    async def plan(request: _Asking) -> Response[str]:
        asked = query.asked(request.query_params)
        of = bulk.kind(request.query_params.get("of"))
        planned = await bulk.plan(desk, of, asked)
        return page(request, "replay_plan.html", plan=planned, asked=asked)

    @post("/replays", include_in_schema=False)
    async def begin(request: _Asking) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        of = bulk.kind(form.get("of"))
        replay_id = await bulk.begin(desk, of, query.asked(form), operator)
        replayer.look_soon()
        return see(f"/replays/{replay_id}")

    @get("/replays/{replay_id:str}", include_in_schema=False)
    async def show(request: _Asking, replay_id: FromPath[str]) -> Response[str]:
        return await found_as(request, "replay.html", replay_id)

    @get("/parts/replays/{replay_id:str}", include_in_schema=False)
    async def part(request: _Asking, replay_id: FromPath[str]) -> Response[str]:
        return await found_as(request, "replay_part.html", replay_id)

    @post("/replays/{replay_id:str}/cancel", include_in_schema=False)
    async def cancel(request: _Asking, replay_id: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        await bulk.cancel(desk, replay_id, operator)
        return see(link(f"/replays/{replay_id}"))

    return [list_replays, plan, begin, show, part, cancel]
