"""Giving up all dead letters that fit a filter: counted first, then closed batch by batch.

A batch is a transaction with its own entry in the operator log. What is closed is passed over, so
whoever is cut off half-way does the rest by asking for the same again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from relay.admin import api, query
from relay.admin.answers import Refusal
from relay.admin.desk import Desk
from relay.admin.pages import form_of, page, see
from relay.admin.query import Asked
from relay.admin.templates import link
from relay.store import deadletters
from relay.store.events import BATCH, Operator

_Asking = Request[Any, Any, Any]
_BATCH_SECONDS: Final = 8.0
# No new batch is begun after so long: browsers and proxies do not wait for ever.
_BEGIN_SECONDS: Final = 8.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which ones and why; at least one filter has to say which.

    With ``dry_run`` nothing is changed, and nobody has to say why. ``up_to`` of a dry run leaves
    out those that died after it.
    """

    reason: str | None = None
    dry_run: bool = False
    up_to: int | None = None
    event_id: str | None = None
    type: str | None = None
    object: str | None = None
    error: str | None = None
    source: str | None = None
    since: str | None = None
    until: str | None = None


class Discard(msgspec.Struct, frozen=True, kw_only=True):
    """Of the ``matched`` with ids up to ``up_to`` some are closed, and ``left`` are still open.

    There was no time for those that are left: ask for the same again.
    """

    matched: int
    up_to: int
    discarded: int
    left: int


async def count(desk: Desk, asked: Asked) -> Discard:
    """Look, and change nothing. Raises Refusal for a filter that cannot be, and for none."""
    if not asked.given:
        # As `relay dlq discard`: nothing gives up everything by accident.
        raise Refusal(400, "Say which dead letters: filter them, by source or error, for example.")
    async with desk.count(_BATCH_SECONDS) as connection:
        run = await deadletters.prepare(connection, await query.resolve(connection, asked))
    return Discard(matched=run.matched, up_to=run.last, discarded=0, left=run.matched)


async def discard(desk: Desk, asked: Asked, up_to: int | None, operator: Operator) -> Discard:
    """Close as many as there is time for. Raises Refusal when nothing fits."""
    before = await count(desk, asked)
    last = before.up_to if up_to is None else min(up_to, before.up_to)
    ends = asyncio.get_running_loop().time() + _BEGIN_SECONDS
    discarded, is_done = 0, not before.matched
    while not is_done and asyncio.get_running_loop().time() < ends:
        async with desk.inbox(_BATCH_SECONDS) as connection:
            wanted = await query.resolve(connection, asked)
            ids = await deadletters.next_ids(connection, wanted, up_to=last, limit=BATCH)
            if ids:
                discarded += await deadletters.discard(connection, ids, operator, wanted)
        is_done = len(ids) < BATCH
    if is_done and not discarded:
        raise Refusal(409, "No dead letter fits any more.")
    left = 0 if is_done else max(before.matched - discarded, 0)
    return Discard(matched=before.matched, up_to=last, discarded=discarded, left=left)


def routes(desk: Desk) -> list[HTTPRouteHandler]:
    """The handlers of the page and of the API."""

    @get("/dead-letters/discard", include_in_schema=False)
    async def ask(request: _Asking) -> Response[str]:
        asked = query.asked(request.query_params)
        return page(request, "discard.html", plan=await count(desk, asked), asked=asked)

    @post("/dead-letters/discard", include_in_schema=False)
    async def act(request: _Asking) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        asked = query.asked(form)
        done = await discard(desk, asked, query.place(form.get("up_to")), operator)
        told = {"discarded": done.discarded, "left": done.left}
        return see(link("/dead-letters", **asked.given, **told))

    @post(
        "/api/dead-letters/discard",
        status_code=200,
        responses=api.told_of_change(),
        summary="Give up all that fit",
    )
    async def act_for_program(request: _Asking, data: JSONBody[Wanted]) -> Discard:
        asked = query.asked(msgspec.structs.asdict(data))
        if data.dry_run:
            return await count(desk, asked)
        operator = api.operator(request, data.reason)
        return await discard(desk, asked, data.up_to, operator)

    return [ask, act, act_for_program]
