"""What is asked for in a URL: filters, places in a list, ids. Raises Refusal for what cannot be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin.answers import Refusal
from relay.core.moments import parse_moment, parse_span
from relay.store import events, sources
from relay.store.events import Filter, State

PAGE_ROWS: Final = 50
MOST_ROWS: Final = 500
_STATES: Final = get_args(State)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
# With room for time zones at both ends of the calendar.
_FIRST: Final = datetime(1, 1, 3, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 29, tzinfo=UTC)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The filters as they were written; None and blank are the same."""

    event_id: str | None = None
    type: str | None = None
    object: str | None = None
    state: str | None = None
    error: str | None = None
    source: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """Those that say something."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value.strip() for name, value in fields.items() if value and value.strip()}


def asked(query: Mapping[str, str]) -> Asked:
    """The filters of a query, a form or a document."""
    return Asked(**{name: query.get(name) for name in Asked.__struct_fields__})


async def resolve(connection: AsyncConnection, wanted: Asked) -> Filter:
    """The filter, with moments by the database's clock."""
    given = wanted.given
    state = given.get("state")
    if state is not None and state not in _STATES:
        raise Refusal(400, f"state: {state!r} is none; there are {', '.join(_STATES)}.")
    if "source" in given and given["source"] not in (known := await sources.names(connection)):
        there = ", ".join(sorted(known)) or "none yet"
        raise Refusal(400, f"source: none is named {given['source']!r}; there are {there}.")
    now = await events.now(connection)
    return Filter(
        event_id=given.get("event_id"),
        type=given.get("type"),
        object=given.get("object"),
        error=given.get("error"),
        source=given.get("source"),
        state=None if state is None else msgspec.convert(state, State),
        since=_moment("since", given.get("since"), now),
        until=_moment("until", given.get("until"), now),
    )


def _moment(name: str, text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    ago = parse_span(text)
    try:
        moment = parse_moment(text) if ago is None else max(now - ago, _FIRST)
        # As the driver does; some times at the ends of the calendar have no equal in UTC.
        moment = None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not _FIRST <= moment <= _LAST:
        raise Refusal(
            400, f"{name}: {text!r} is no time: write 2h or 3d (ago), or 2026-11-24T18:00:00Z."
        )
    return moment


def moment(name: str, text: str | None) -> datetime | None:
    """A moment of a form or of a body; blank is none."""
    if text is None or not text.strip():
        return None
    found = parse_moment(text)
    try:
        found = None if found is None else found.astimezone(UTC)
    except OverflowError:
        found = None
    if found is None or not _FIRST <= found <= _LAST:
        raise Refusal(400, f"{name}: {text!r} is no time: write 2026-11-24T18:00:00Z.")
    return found


def place(text: str | None) -> int | None:
    """Where a list goes on: ``before`` in the query."""
    if text is None or not text.strip():
        return None
    if not _NUMBER.fullmatch(text.strip()):
        raise Refusal(400, f"before: {text!r} is no place in a list: take the one of the answer.")
    return int(text)


def limit(text: str | None) -> int:
    """How many rows are wanted."""
    if text is None or not text.strip():
        return PAGE_ROWS
    if not _NUMBER.fullmatch(text.strip()) or not 1 <= int(text) <= MOST_ROWS:
        raise Refusal(400, f"limit: {text!r} is not a whole number from 1 to {MOST_ROWS}.")
    return int(text)


def inbox_id(text: str) -> int:
    """An inbox id of a path. Raises Refusal (404) for what can be none."""
    if not _NUMBER.fullmatch(text):
        raise Refusal(404, f"There is no event {text!r}: inbox ids are whole numbers.")
    return int(text)


def reason(text: str | None) -> str:
    """Why an operator acts; it is kept in the operator log."""
    text = (text or "").strip()
    if not text:
        raise Refusal(400, "reason: say why; it is kept in the operator log.")
    if len(text) > 1000:
        raise Refusal(400, "reason: longer than 1000 characters.")
    return text
