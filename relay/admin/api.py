"""The JSON API under ``/api``; what it says is described at ``/schema``."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import unquote

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from relay.admin import actions, bodies, query, schema
from relay.admin.access import Access
from relay.admin.actions import Action, Done
from relay.admin.answers import Problem, Refusal, access_of
from relay.admin.desk import Desk
from relay.admin.gate import MOST_BYTES
from relay.admin.overview import Overview, Watch
from relay.admin.query import Asked
from relay.admin.schema import (
    DeadLetters,
    Entries,
    EventProof,
    Events,
    Reason,
    Timeline,
)
from relay.store import deadletters, listing, operatorlog, proof
from relay.store.events import Operator
from relay.store.proof import Proof

_OBJECTS: Final = "/api/objects/"
_ACTION_SECONDS: Final = 8.0
# What the gate answers, and a question that takes too long.
_ALWAYS: Final = (400, 401, 403, 429, 503)

_EventId = Annotated[str | None, QueryParameter(description="Stripe's event id, evt_….")]
_Type = Annotated[str | None, QueryParameter(name="type", description="Event type; may contain *.")]
_Object = Annotated[
    str | None, QueryParameter(name="object", description="Id of the object, cus_….")
]
# `state` is a name of Litestar's own.
_State = Annotated[
    str | None,
    QueryParameter(name="state", description="pending, retrying, dead, skipped or delivered."),
]
_Code = Annotated[str | None, QueryParameter(description="Error code.")]
_Source = Annotated[str | None, QueryParameter(description="Name of a source.")]
_Since = Annotated[
    str | None, QueryParameter(description="Not before: 2h or 3d (ago), or RFC 3339.")
]
_Until = Annotated[str | None, QueryParameter(description="Before: like since.")]
_Before = Annotated[
    str | None, QueryParameter(description="Goes on with a list: next of its answer.")
]
Limit = Annotated[str | None, QueryParameter(description=f"From 1 to {query.MOST_ROWS} rows.")]


def access(request: Request[Any, Any, Any]) -> Access:
    """Who asks; the gate has let nobody else in."""
    found = access_of(request.scope)
    assert found is not None
    return found


def operator(request: Request[Any, Any, Any], reason: str | None) -> Operator:
    """Who acts, and why. Raises Refusal without a reason."""
    return Operator(access(request).who, query.reason(reason))


async def act(desk: Desk, who: Access, inbox_id: str, action: Action, reason: str | None) -> Done:
    """Do one thing with one event; raises Refusal when it cannot be."""
    number, why = query.inbox_id(inbox_id), query.reason(reason)
    async with desk.inbox(_ACTION_SECONDS) as connection:
        return await actions.act(connection, number, action, Operator(who.who, why))


async def timeline(desk: Desk, object_id: str, limit: int, before: int | None) -> Timeline:
    """A page of an object's events."""
    async with desk.inbox() as connection:
        found = await listing.of_object(connection, object_id, limit=limit, before_id=before)
    return schema.timeline_of(object_id, found)


async def proof_of(desk: Desk, inbox_id: str) -> Proof:
    """Everything about one event. Raises Refusal (404)."""
    number = query.inbox_id(inbox_id)
    async with desk.inbox() as connection:
        found = await proof.of_event(connection, number, body_bytes=bodies.MOST_BYTES)
    if found is None:
        raise Refusal(404, f"There is no event {number}.")
    return found


def told(*statuses: int) -> dict[int, ResponseSpec]:
    """The answers of a handler that are none of its own, for OpenAPI."""
    words = {
        400: "Something in the request cannot be.",
        401: "No token, or a wrong one.",
        403: "Not allowed with this token, or under this name.",
        404: "There is none.",
        409: "Not possible in the state that it is in.",
        413: f"More than {MOST_BYTES} bytes were sent.",
        429: "Too many wrong tokens from this address.",
        503: "The database is away.",
    }
    return {
        status: ResponseSpec(Problem, description=words[status], generate_examples=False)
        for status in sorted({*statuses, *_ALWAYS})
    }


def told_of_change(*statuses: int) -> dict[int, ResponseSpec]:
    """The same of one that takes a body and changes something."""
    return told(*statuses, 409, 413)


def routes(desk: Desk, watch: Watch) -> list[HTTPRouteHandler]:
    """The handlers of the API."""

    @get("/api/overview", responses=told(), summary="What is unfinished and what is wrong")
    async def overview() -> Overview:
        return await watch.overview()

    @get("/api/events", responses=told(), summary="Events that fit, the newest first")
    async def list_events(
        event_id: _EventId = None,
        type_: _Type = None,
        object_: _Object = None,
        state_: _State = None,
        error: _Code = None,
        source: _Source = None,
        since: _Since = None,
        until: _Until = None,
        before: _Before = None,
        limit: Limit = None,
    ) -> Events:
        wanted = Asked(
            event_id=event_id,
            type=type_,
            object=object_,
            state=state_,
            error=error,
            source=source,
            since=since,
            until=until,
        )
        rows, after = query.limit(limit), query.place(before)
        async with desk.inbox() as connection:
            chosen = await query.resolve(connection, wanted)
            found = await listing.page(connection, chosen, limit=rows, before_id=after)
        return schema.of_events(found)

    @get("/api/events/{inbox_id:str}", responses=told(404), summary="All that is stored of one")
    async def show_event(request: Request[Any, Any, Any], inbox_id: FromPath[str]) -> EventProof:
        return schema.proof_for(desk, access(request), await proof_of(desk, inbox_id))

    @get(
        "/api/objects/{object_id:path}",
        responses=told(),
        summary="The events of an object in all sources and topics, the newest first",
    )
    async def show_object(
        request: Request[Any, Any, Any],
        object_id: FromPath[str],
        before: _Before = None,
        limit: Limit = None,
    ) -> Timeline:
        # The path as it was sent: an id may have slashes in it.
        raw = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
        name = unquote(raw.removeprefix(_OBJECTS), errors="replace")
        return await timeline(desk, name, query.limit(limit), query.place(before))

    @get("/api/dead-letters", responses=told(), summary="Open dead letters, the newest first")
    async def list_dead_letters(
        error: _Code = None,
        source: _Source = None,
        before: _Before = None,
        limit: Limit = None,
    ) -> DeadLetters:
        rows, after = query.limit(limit), query.place(before)
        async with desk.inbox() as connection:
            chosen = await query.resolve(connection, Asked(error=error, source=source))
            found = await deadletters.list_dead_letters(
                connection, chosen, limit=rows, before_id=after
            )
        return schema.letters_of(found, rows)

    @get("/api/operator-log", responses=told(), summary="What operators did, the newest first")
    async def operator_log(before: _Before = None, limit: Limit = None) -> Entries:
        rows, after = query.limit(limit), query.place(before)
        async with desk.inbox() as connection:
            found = await operatorlog.page(connection, limit=rows, before_id=after)
        return schema.entries_of(found, rows)

    return [
        overview,
        list_events,
        show_event,
        show_object,
        list_dead_letters,
        operator_log,
        *(_changing(desk, action) for action in actions.ACTIONS),
    ]


_SUMMARIES: Final[dict[Action, str]] = {
    "retry": "Try a waiting event now",
    "skip": "Give a waiting event up",
    "replay": "Send a settled or dead event again",
    "discard": "Give a dead event up",
}


def _changing(desk: Desk, action: Action) -> HTTPRouteHandler:
    @post(
        f"/api/events/{{inbox_id:str}}/{action}",
        status_code=200,
        responses=told_of_change(404),
        summary=_SUMMARIES[action],
        operation_id=f"{action}_event",
    )
    async def change(
        request: Request[Any, Any, Any], inbox_id: FromPath[str], data: JSONBody[Reason]
    ) -> Done:
        return await act(desk, access(request), inbox_id, action, data.reason)

    return change
