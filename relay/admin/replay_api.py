"""The JSON API of replays."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from relay.admin import api, bulk, query
from relay.admin.bulk import Glances, Of, Plan, Replayer
from relay.admin.desk import Desk
from relay.admin.schema import Reason
from relay.store import runs
from relay.store.runs import Progress, Told


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """One replay.

    ``matched`` fitted at its beginning; ``left_out`` of them cannot be sent. It is brought further
    by itself when it is ``in_background``. ``progress`` is null in lists, and when it takes too
    long to look for.
    """

    replay_id: str
    of: str
    who: str
    reason: str | None
    started_at: datetime
    updated_at: datetime
    is_finished: bool
    is_cancelled: bool
    in_background: bool
    matched: int
    queued: int
    left_out: int
    filter: dict[str, Any] | None
    progress: Progress | None = None


class Replays(msgspec.Struct, frozen=True):
    """The newest first."""

    replays: list[Replay]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Of what, which ones and why. Without a filter all of them: of events those delivered.

    With ``dry_run`` nothing is changed, and nobody has to say why.
    """

    of: Of
    reason: str | None = None
    dry_run: bool = False
    event_id: str | None = None
    type: str | None = None
    object: str | None = None
    state: str | None = None
    error: str | None = None
    source: str | None = None
    since: str | None = None
    until: str | None = None


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What was begun, ``replay_id`` null where it was only asked about."""

    replay_id: str | None
    plan: Plan


def routes(desk: Desk, replayer: Replayer, glances: Glances) -> list[HTTPRouteHandler]:
    """The handlers; a replay that is begun here goes on by ``replayer``."""

    @get("/api/replays", responses=api.told(), summary="Replays, the newest first")
    async def list_replays(limit: api.Limit = None) -> Replays:
        rows = query.limit(limit)
        async with desk.inbox() as connection:
            found = await runs.list_replays(connection, limit=rows)
        return Replays([_replay(each) for each in found])

    @get("/api/replays/{replay_id:str}", responses=api.told(404), summary="How far one is")
    async def show_replay(replay_id: FromPath[str]) -> Replay:
        return _replay(*await glances.find(replay_id))

    @post(
        "/api/replays",
        status_code=202,
        responses=api.told_of_change(),
        summary="Send all that fit again, in the background",
    )
    async def begin_replay(
        request: Request[Any, Any, Any], data: JSONBody[Wanted]
    ) -> Response[Begun]:
        asked = query.asked(msgspec.structs.asdict(data))
        if data.dry_run:
            plan = await bulk.plan(desk, data.of, asked)
            return Response(Begun(replay_id=None, plan=plan), status_code=202)
        operator = api.operator(request, data.reason)
        plan = await bulk.plan(desk, data.of, asked)
        replay_id = await bulk.begin(desk, data.of, asked, operator)
        replayer.look_soon()
        return Response(Begun(replay_id=replay_id, plan=plan), status_code=202)

    @post(
        "/api/replays/{replay_id:str}/cancel",
        status_code=200,
        responses=api.told_of_change(404),
        summary="End one with what it has queued",
    )
    async def cancel_replay(
        request: Request[Any, Any, Any], replay_id: FromPath[str], data: JSONBody[Reason]
    ) -> Replay:
        operator = api.operator(request, data.reason)
        await bulk.cancel(desk, replay_id, operator)
        return _replay(*await glances.find(replay_id))

    return [list_replays, show_replay, begin_replay, cancel_replay]


def _replay(found: Told, progress: Progress | None = None) -> Replay:
    return Replay(**msgspec.structs.asdict(found), progress=progress)
