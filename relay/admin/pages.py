"""The pages: what the API says, for people. They work without scripts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from relay.admin import actions, api, assets, bodies, chart, query, schema, templates
from relay.admin.access import Access, Throttle, Tokens, name_of
from relay.admin.answers import Refusal, access_of
from relay.admin.desk import Desk
from relay.admin.gate import Asked, inside, too_often
from relay.admin.overview import Watch
from relay.admin.records import Reading
from relay.admin.templates import link
from relay.store import deadletters, events, listing, operatorlog, proof, sources, throughput
from relay.store.text import is_storable

_Asking = Request[Any, Any, Any]


def page(request: _Asking, name: str, *, status: int = 200, **values: Any) -> Response[str]:
    """A template for whoever asks."""
    who: Access | None = access_of(request.scope)
    content = templates.render(name, who, path=request.url.path, **values)
    return Response(content, media_type="text/html", status_code=status)


def see(url: str) -> Response[None]:
    """See there, whatever was done."""
    return Response(None, status_code=303, headers={"location": url})


async def form_of(request: _Asking) -> dict[str, str]:
    """The fields of a form; of a repeated one the last."""
    return {name: each[-1] for name, each in (await fields_of(request)).items()}


async def fields_of(request: _Asking) -> dict[str, list[str]]:
    """The fields of a form."""
    text = (await request.body()).decode("utf-8", "replace")
    return parse_qs(text, keep_blank_values=True)


def free_routes(tokens: Tokens, throttle: Throttle) -> list[HTTPRouteHandler]:
    """The handlers of what comes before the login, and of the logout."""

    @get("/static/{name:str}", include_in_schema=False)
    async def asset(name: FromPath[str]) -> Response[bytes]:
        if name not in assets.CONTENT:
            raise Refusal(404, "There is no such file.")
        return Response(
            assets.CONTENT[name],
            media_type=assets.TYPES[name],
            headers={"cache-control": "public, max-age=86400"},
        )

    @get("/login", include_in_schema=False)
    async def ask(request: _Asking) -> Response[Any]:
        who = access_of(request.scope)
        if who is not None and who.may_change:
            return see("/")
        return page(request, "login.html", next=request.query_params.get("next", "/"), wrong=None)

    @post("/login", include_in_schema=False)
    async def log_in(request: _Asking) -> Response[Any]:
        form, asked = await form_of(request), Asked(request.scope)
        there = inside(form.get("next", "/"))
        if throttle.is_closed(asked.address):
            refusal = too_often()
            return page(request, "login.html", status=429, next=there, wrong=refusal.message)
        role = tokens.role_of(form.get("token", "").strip())
        if role is None:
            await throttle.fail(asked.address)
            wrong = "That is not a token of this relay."
            return page(request, "login.html", status=401, next=there, wrong=wrong)
        answer = see(there)
        answer.headers["set-cookie"] = asked.session_header(
            tokens.begin(role, name_of(form.get("name", "")))
        )
        return answer

    @post("/logout", include_in_schema=False)
    async def log_out(request: _Asking) -> Response[None]:
        answer = see("/login")
        answer.headers["set-cookie"] = Asked(request.scope).session_header("")
        return answer

    return [asset, ask, log_in, log_out]


def routes(desk: Desk, watch: Watch, reading: Reading) -> list[HTTPRouteHandler]:
    """The handlers of everything behind the login."""

    async def figures() -> dict[str, Any]:
        found = await watch.overview()
        return {"overview": found, "chart": chart.draw(found.throughput, datetime.now(UTC))}

    @get("/", include_in_schema=False)
    async def overview(request: _Asking) -> Response[str]:
        return page(request, "overview.html", **await figures())

    @get("/parts/overview", include_in_schema=False)
    async def overview_part(request: _Asking) -> Response[str]:
        return page(request, "overview_part.html", **await figures())

    @get("/search", include_in_schema=False)
    async def search(request: _Asking) -> Response[None]:
        return see(await _find(desk, request.query_params.get("q", "").strip()))

    @get("/events", include_in_schema=False)
    async def list_events(request: _Asking) -> Response[str]:
        asked = query.asked(request.query_params)
        after = query.place(request.query_params.get("before"))
        async with desk.inbox() as connection:
            names = sorted(await sources.names(connection))
            wanted = await query.resolve(connection, asked)
            rows = await listing.page(connection, wanted, limit=query.PAGE_ROWS, before_id=after)
        found = schema.of_events(rows)
        onward = None if found.next is None else link("/events", **asked.given, before=found.next)
        return page(
            request,
            "events.html",
            asked=asked,
            found=found.events,
            onward=onward,
            first=link("/events", **asked.given) if after is not None else None,
            sources=names,
            states=events.STATES,
        )

    @get("/events/{inbox_id:str}", include_in_schema=False)
    async def show_event(request: _Asking, inbox_id: FromPath[str]) -> Response[str]:
        found = await api.proof_of(desk, inbox_id)
        who = api.access(request)
        shown = schema.proof_for(desk, who, found)
        return page(
            request,
            "event.html",
            proof=shown,
            event=shown.event,
            pretty=bodies.pretty(found.body) if shown.body and shown.body_complete else None,
            why_no_body=_why_no_body(desk, who, found),
            can_read_records=reading.is_possible and shown.body is not None,
            did=request.query_params.get("did"),
            overtaken=request.query_params.get("overtaken") == "yes",
        )

    @get("/events/{inbox_id:str}/body", include_in_schema=False)
    async def body(request: _Asking, inbox_id: FromPath[str]) -> Response[bytes]:
        number = query.inbox_id(inbox_id)
        if not schema.sees_bodies(desk, api.access(request)):
            raise Refusal(403, "Bodies are not shown to you.")
        async with desk.inbox() as connection:
            found = await proof.body_of(connection, number)
        if found is None:
            raise Refusal(404, f"There is no body of an event {number}.")
        return Response(
            found,
            media_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="event-{number}.json"'},
        )

    @get("/objects", include_in_schema=False)
    async def show_object(request: _Asking) -> Response[str]:
        name = request.query_params.get("id", "")
        after = query.place(request.query_params.get("before"))
        found = await api.timeline(desk, name, query.PAGE_ROWS, after)
        onward = None if found.next is None else link("/objects", id=name, before=found.next)
        return page(
            request,
            "object.html",
            status=200 if found.events or after is not None else 404,
            object_id=name,
            found=found.events,
            onward=onward,
            first=link("/objects", id=name) if after is not None else None,
        )

    @get("/dead-letters", include_in_schema=False)
    async def dead_letters(request: _Asking) -> Response[str]:
        asked = query.asked(request.query_params)
        after = query.place(request.query_params.get("before"))
        async with desk.inbox() as connection:
            groups = await throughput.dead_by_code(connection)
            names = sorted(await sources.names(connection))
            wanted = await query.resolve(connection, asked)
            rows = await deadletters.list_dead_letters(
                connection, wanted, limit=query.PAGE_ROWS, before_id=after
            )
        found = schema.letters_of(rows, query.PAGE_ROWS)
        onward = (
            None if found.next is None else link("/dead-letters", **asked.given, before=found.next)
        )
        return page(
            request,
            "dead_letters.html",
            groups=groups,
            asked=asked,
            found=found.dead_letters,
            onward=onward,
            first=link("/dead-letters", **asked.given) if after is not None else None,
            sources=names,
            discarded=query.place(request.query_params.get("discarded")),
            left=query.place(request.query_params.get("left")),
        )

    @get("/operator-log", include_in_schema=False)
    async def operator_log(request: _Asking) -> Response[str]:
        after = query.place(request.query_params.get("before"))
        async with desk.inbox() as connection:
            rows = await operatorlog.page(connection, limit=query.PAGE_ROWS, before_id=after)
        found = schema.entries_of(rows, query.PAGE_ROWS)
        return page(
            request,
            "operator_log.html",
            found=found.entries,
            onward=None if found.next is None else link("/operator-log", before=found.next),
            first="/operator-log" if after is not None else None,
        )

    return [
        overview,
        overview_part,
        search,
        list_events,
        show_event,
        body,
        show_object,
        dead_letters,
        operator_log,
        *(_changing(desk, action) for action in actions.ACTIONS),
    ]


def _changing(desk: Desk, action: actions.Action) -> HTTPRouteHandler:
    @post(f"/events/{{inbox_id:str}}/{action}", include_in_schema=False)
    async def change(request: _Asking, inbox_id: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        done = await api.act(desk, api.access(request), inbox_id, action, form.get("reason"))
        overtaken = "yes" if done.overtaken else None
        return see(link(f"/events/{done.inbox_id}", did=action, overtaken=overtaken))

    return change


def _why_no_body(desk: Desk, who: Access, found: proof.Proof) -> str | None:
    if found.redaction is not None:
        return f"The body was {found.redaction}."
    if desk.hide_bodies:
        return "Bodies are shown to nobody here (RELAY_ADMIN_HIDE_BODIES)."
    return None if who.may_change else "Bodies are shown to operators."


async def _find(desk: Desk, text: str) -> str:
    """Where something is that was pasted: an event, or else the object of that id."""
    if not text:
        return "/events"
    if text.isascii() and text.isdigit():
        return f"/events/{text}"
    ids: list[int] = []
    if is_storable(text):
        async with desk.inbox() as connection:
            ids = await proof.find_ids(connection, text)
    if len(ids) == 1:
        return f"/events/{ids[0]}"
    if ids or text.startswith("evt_"):
        return link("/events", event_id=text)
    return link("/objects", id=text)
