"""The JSON API of snapshots."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody, QueryParameter

from relay.admin import api, query
from relay.admin.backfills import Backfills, Choice, Progress, Snapshot, Started
from relay.admin.schema import Reason
from relay.store.snapshots import Action

_Source = Annotated[str | None, QueryParameter(description="Name of a source.")]
_SUMMARIES: dict[Action, str] = {
    "pause": "Ask for no more pages",
    "resume": "Go on where a paused or failed one stands",
    "cancel": "End one; what was read stays",
}


class Snapshots(msgspec.Struct, frozen=True):
    """The newest first."""

    snapshots: list[Snapshot]


class Shown(msgspec.Struct, frozen=True):
    """One, resource by resource."""

    snapshot: Snapshot
    progress: list[Progress]


class Wanted(Choice, frozen=True, kw_only=True):
    """What to read, and why."""

    reason: str


def routes(backfills: Backfills) -> list[HTTPRouteHandler]:
    """The handlers."""

    @get("/api/snapshots", responses=api.told(), summary="Snapshots, the newest first")
    async def list_snapshots(source: _Source = None, limit: api.Limit = None) -> Snapshots:
        return Snapshots(await backfills.page(source, query.limit(limit)))

    @get("/api/snapshots/{snapshot_id:str}", responses=api.told(404), summary="How far one is")
    async def show_snapshot(snapshot_id: FromPath[str]) -> Shown:
        return Shown(*await backfills.show(snapshot_id))

    @post(
        "/api/snapshots",
        status_code=201,
        responses=api.told_of_change(),
        summary="Read what the Stripe API lists",
    )
    async def start_snapshot(request: Request[Any, Any, Any], data: JSONBody[Wanted]) -> Started:
        operator = api.operator(request, data.reason)
        return await backfills.start(data, operator)

    return [
        list_snapshots,
        show_snapshot,
        start_snapshot,
        *(_changing(backfills, action) for action in _SUMMARIES),
    ]


def _changing(backfills: Backfills, action: Action) -> HTTPRouteHandler:
    @post(
        f"/api/snapshots/{{snapshot_id:str}}/{action}",
        status_code=200,
        responses=api.told_of_change(404),
        summary=_SUMMARIES[action],
        operation_id=f"{action}_snapshot",
    )
    async def change(
        request: Request[Any, Any, Any], snapshot_id: FromPath[str], data: JSONBody[Reason]
    ) -> Snapshot:
        operator = api.operator(request, data.reason)
        return await backfills.change(snapshot_id, action, operator)

    return change
