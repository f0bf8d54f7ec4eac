"""The JSON API under ``/api``; what it says is described at ``/schema``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import unquote

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody, QueryParameter

from relay.admin import actions, bodies, query
from relay.admin.access import Access
from relay.admin.actions import Action, Done
from relay.admin.answers import Problem, Refusal, access_of
from relay.admin.desk import Desk
from relay.admin.overview import Overview, Watch
from relay.admin.query import Asked
from relay.store import deadletters, listing, operatorlog, proof
from relay.store.events import Operator
from relay.store.listing import Page
from relay.store.proof import Proof

_OBJECTS: Final = "/api/objects/"
_ACTION_SECONDS: Final = 8.0

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
_Limit = Annotated[str | None, QueryParameter(description=f"From 1 to {query.MOST_ROWS} rows.")]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as in the view relay.events."""

    id: int
    source: str
    event_id: str
    event_type: str | None
    object_type: str | None
    object_id: str | None
    account: str | None
    livemode: bool | None
    api_version: str | None
    event_created: datetime | None
    received_at: datetime
    origin: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    last_error_code: str | None
    last_error: str | None
    settled_at: datetime | None
    skip_reason: str | None
    body_sha256: str
    body_bytes: int


class Events(msgspec.Struct, frozen=True):
    """The newest first; ``next`` is the ``before`` of the next ones, null at the end."""

    events: list[Event]
    next: int | None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A record that Kafka acknowledged, or why there is none."""

    produced_at: datetime
    kind: str
    record: int
    topic: str | None
    partition: int | None
    offset: int | None
    key: str | None
    op: str | None
    skipped: str | None
    attempts: int
    replay_id: str | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    failed_at: datetime
    error_code: str
    error: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Open while it was neither replayed nor discarded. Without inbox id: a refused request."""

    id: int
    source: str
    inbox_id: int | None
    event_id: str | None
    event_type: str | None
    error_code: str
    error: str
    attempts: int
    dead_at: datetime
    replayed_at: datetime | None
    discarded_at: datetime | None


class Erased(msgspec.Struct, frozen=True):
    """By whom, when and why the body was erased."""

    redacted_at: datetime
    operator: str
    reason: str


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did with this event by its id."""

    at: datetime
    who: str
    action: str
    target: str
    reason: str | None


class Changed(msgspec.Struct, frozen=True):
    """A field of data.object before and now, as JSON; ``after`` is null where it is gone."""

    path: str
    before: str
    after: str | None


class EventProof(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored of one event.

    ``body`` is the beginning of it as text, null when it is not yours to see or was erased;
    ``body_complete`` tells whether it is all. ``changes`` are what previous_attributes tells.
    """

    event: Event
    signature_header: str | None
    receipts: list[Receipt]
    failures: list[Failure]
    dead_letters: list[DeadLetter]
    redaction: Erased | None
    actions: list[Acted]
    possible: list[Action]
    body: str | None
    body_complete: bool
    changes: list[Changed] | None


class OfObject(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an object, and the topics that it is in."""

    event: Event
    topics: list[str]


class Timeline(msgspec.Struct, frozen=True):
    """The events of an object, the newest first."""

    object_id: str
    events: list[OfObject]
    next: int | None


class DeadLetters(msgspec.Struct, frozen=True):
    """Open ones, the newest first."""

    dead_letters: list[DeadLetter]
    next: int | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, and why."""

    id: int
    at: datetime
    who: str
    action: str
    target: str
    reason: str | None
    details: dict[str, Any] | None


class Entries(msgspec.Struct, frozen=True):
    """The newest first."""

    entries: list[Entry]
    next: int | None


class Reason(msgspec.Struct, frozen=True):
    """Why an operator acts; kept in the operator log."""

    reason: str


def sees_bodies(desk: Desk, access: Access) -> bool:
    """Whether bodies are shown to whoever asks."""
    return access.may_change and not desk.hide_bodies


def proof_for(desk: Desk, access: Access, found: Proof) -> EventProof:
    """What is said of an event to whoever has this access."""
    is_seen = sees_bodies(desk, access) and found.redaction is None
    is_complete = len(found.body) == found.event["body_bytes"]
    return EventProof(
        event=_event(found.event),
        # It is proof of who sent it, and no help in sending anything: it holds for a few minutes.
        signature_header=found.signature_header,
        receipts=_all(found.receipts, Receipt),
        failures=_all(found.failures, Failure),
        dead_letters=_all(found.dead_letters, DeadLetter),
        redaction=None
        if found.redaction is None
        else Erased(found.redaction.redacted_at, found.redaction.operator, found.redaction.reason),
        actions=_all(found.actions, Acted),
        possible=_possible(found.event) if access.may_change else [],
        body=bodies.text_of(found.body) if is_seen else None,
        body_complete=is_complete,
        changes=[Changed(c.path, c.before, c.after) for c in bodies.changes(found.body)]
        if is_seen and is_complete
        else None,
    )


def access(request: Request[Any, Any, Any]) -> Access:
    """Who asks; the gate has let nobody else in."""
    found = access_of(request.scope)
    assert found is not None
    return found


async def act(desk: Desk, who: Access, inbox_id: str, action: Action, reason: str | None) -> Done:
    """Do one thing with one event; raises Refusal when it cannot be."""
    number, why = query.inbox_id(inbox_id), query.reason(reason)
    async with desk.inbox(_ACTION_SECONDS) as connection:
        return await actions.act(connection, number, action, Operator(who.who, why))


def of_events(found: Page) -> Events:
    """A page of a list."""
    return Events([_event(row) for row in found.rows], found.next)


async def timeline(desk: Desk, object_id: str, limit: int, before: int | None) -> Timeline:
    """A page of an object's events."""
    async with desk.inbox() as connection:
        found = await listing.of_object(connection, object_id, limit=limit, before_id=before)
    events = [OfObject(event=_event(row), topics=row["topics"]) for row in found.rows]
    return Timeline(object_id, events, found.next)


async def proof_of(desk: Desk, inbox_id: str) -> Proof:
    """Everything about one event. Raises Refusal (404)."""
    number = query.inbox_id(inbox_id)
    async with desk.inbox() as connection:
        found = await proof.of_event(connection, number, body_bytes=bodies.MOST_BYTES)
    if found is None:
        raise Refusal(404, f"There is no event {number}.")
    return found


def entries_of(rows: list[dict[str, Any]], limit: int) -> Entries:
    return Entries(_all(rows, Entry), _next(rows, limit))


def letters_of(rows: list[dict[str, Any]], limit: int) -> DeadLetters:
    return DeadLetters(_all(rows, DeadLetter), _next(rows, limit))


def _possible(event: dict[str, Any]) -> list[Action]:
    return actions.possible(event["state"], is_usable=event["event_type"] is not None)


def _event(row: dict[str, Any]) -> Event:
    return msgspec.convert(row | {"body_sha256": row["body_sha256"].hex()}, Event)


def _all(rows: list[dict[str, Any]], struct: type[Any]) -> list[Any]:
    return [struct(**row) for row in rows]


def _next(rows: list[dict[str, Any]], limit: int) -> int | None:
    return int(rows[-1]["id"]) if len(rows) == limit else None


def _told(*statuses: int) -> dict[int, ResponseSpec]:
    words = {
        400: "Something in the request cannot be.",
        401: "No token, or a wrong one.",
        403: "Not allowed with this token.",
        404: "There is none.",
        409: "Not possible in the state that it is in.",
        503: "The database is away.",
    }
    return {
        status: ResponseSpec(Problem, description=words[status], generate_examples=False)
        for status in (*statuses, 401, 503)
    }


def routes(desk: Desk, watch: Watch) -> list[HTTPRouteHandler]:
    """The handlers of the API."""

    @get("/api/overview", responses=_told(), summary="What is unfinished and what is wrong")
    async def overview() -> Overview:
        return await watch.overview()

    @get("/api/events", responses=_told(400), summary="Events that fit, the newest first")
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
        limit: _Limit = None,
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
        return of_events(found)

    @get("/api/events/{inbox_id:str}", responses=_told(404), summary="All that is stored of one")
    async def show_event(request: Request[Any, Any, Any], inbox_id: FromPath[str]) -> EventProof:
        return proof_for(desk, access(request), await proof_of(desk, inbox_id))

    @get(
        "/api/objects/{object_id:path}",
        responses=_told(400),
        summary="The events of an object in all sources and topics, the newest first",
    )
    async def show_object(
        request: Request[Any, Any, Any],
        object_id: FromPath[str],
        before: _Before = None,
        limit: _Limit = None,
    ) -> Timeline:
        # The path as it was sent: an id may have slashes in it.
        raw = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
        name = unquote(raw.removeprefix(_OBJECTS), errors="replace")
        return await timeline(desk, name, query.limit(limit), query.place(before))

    @get("/api/dead-letters", responses=_told(400), summary="Open dead letters, the newest first")
    async def list_dead_letters(
        error: _Code = None,
        source: _Source = None,
        before: _Before = None,
        limit: _Limit = None,
    ) -> DeadLetters:
        rows, after = query.limit(limit), query.place(before)
        async with desk.inbox() as connection:
            chosen = await query.resolve(connection, Asked(error=error, source=source))
            found = await deadletters.list_dead_letters(
                connection, chosen, limit=rows, before_id=after
            )
        return letters_of(found, rows)

    @get("/api/operator-log", responses=_told(400), summary="What operators did, the newest first")
    async def operator_log(before: _Before = None, limit: _Limit = None) -> Entries:
        rows, after = query.limit(limit), query.place(before)
        async with desk.inbox() as connection:
            found = await operatorlog.page(connection, limit=rows, before_id=after)
        return entries_of(found, rows)

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
        responses=_told(400, 403, 404, 409),
        summary=_SUMMARIES[action],
        operation_id=f"{action}_event",
    )
    async def change(
        request: Request[Any, Any, Any], inbox_id: FromPath[str], data: JSONBody[Reason]
    ) -> Done:
        return await act(desk, access(request), inbox_id, action, data.reason)

    return change
