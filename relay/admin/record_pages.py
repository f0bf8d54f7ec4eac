"""The records of one event as they stand in Kafka, for people and for programs."""

from __future__ import annotations

from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from relay.admin import api, bodies, query, schema
from relay.admin.answers import Refusal
from relay.admin.desk import Desk
from relay.admin.pages import page
from relay.admin.records import Reading, Records
from relay.admin.templates import link
from relay.store.proof import Proof

_Asking = Request[Any, Any, Any]
_Start = Annotated[str | None, QueryParameter(description="Goes on: next of an answer.")]
# Of JSON that is longer than this no indented form is shown.
_MOST_INDENTED: Final = 64 * 1024


def routes(desk: Desk, reading: Reading) -> list[HTTPRouteHandler]:
    """The handlers of the page and of the API."""

    async def read(request: _Asking, inbox_id: str, start: str | None) -> tuple[Proof, Records]:
        if not schema.sees_bodies(desk, api.access(request)):
            raise Refusal(403, "Bodies are not shown to you.")
        found = await api.proof_of(desk, inbox_id)
        return found, await reading.of_event(found, query.place(start) or 0)

    @get("/events/{inbox_id:str}/records", include_in_schema=False)
    async def show(request: _Asking, inbox_id: FromPath[str]) -> Response[str]:
        start = request.query_params.get("start")
        proof, found = await read(request, inbox_id, start)
        path = f"/events/{proof.event['id']}/records"
        return page(
            request,
            "records.html",
            event=proof.event,
            found=[(each, _pretty(each.value)) for each in found.records],
            onward=None if found.next is None else link(path, start=found.next),
            first=path if start else None,
        )

    @get(
        "/api/events/{inbox_id:str}/records",
        responses=api.told(404, 409),
        summary="Its records as they stand in Kafka, with headers and values, for operators",
    )
    async def tell(request: _Asking, inbox_id: FromPath[str], start: _Start = None) -> Records:
        return (await read(request, inbox_id, start))[1]

    return [show, tell]


def _pretty(value: str | None) -> str | None:
    if value is None or len(value) > _MOST_INDENTED:
        return None
    return bodies.pretty(value.encode("utf-8"))
