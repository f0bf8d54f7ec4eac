"""How a list of the Stripe API is read to its end without a gap. Pure.

Stripe lists the newest first and cannot do otherwise. A scan therefore walks down one half-open
window of creation times; the window is frozen before the first page, so that what is created
meanwhile can neither shift a page nor prolong the scan. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from relay.core.listings import MAX_PAGE

STRIPE_BEGAN: Final = 1_293_840_000
"""2011-01-01: nothing in Stripe is older. Only for choosing where to split a window that is open at
its lower end; what should be older all the same is still read."""

_SHORTEST: Final = 3600
"""A window below an hour is not worth a second reader."""


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a scan stands: ``[created_from, created_until)``, read down to the cursor.

    ``created_from`` is None when everything older belongs to it, and both ends are when the list
    has no filter by creation. ``last_created`` is the creation time of the cursor's object.
    """

    created_from: int | None = None
    created_until: int | None = None
    cursor: str | None = None
    last_created: int | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of a page: the last object in it, if it has any, and whether there are more."""

    last_id: str | None
    last_created: int | None
    has_more: bool


Progress = Literal["on", "stalled", "done"]


def parameters(at: Position, *, filtered: bool) -> dict[str, str]:
    """The query of the next page, without what the resource itself needs."""
    query = {"limit": str(MAX_PAGE)}
    if filtered and at.created_from is not None:
        query["created[gte]"] = str(at.created_from)
    if filtered and at.created_until is not None:
        query["created[lt]"] = str(at.created_until)
    if at.cursor is not None:
        query["starting_after"] = at.cursor
    return query


def advance(at: Position, page: Seen) -> tuple[Position, Progress]:
    """The position behind a page.

    Only ``has_more: false`` ends a scan. An empty page that promises more, which is said to happen
    where hundreds of objects share a second, leaves it where it was: `stalled`. So does one that
    ends with the cursor: behind an object cannot be that object.
    """
    is_further = page.last_id is not None and page.last_id != at.cursor
    if is_further:
        at = msgspec.structs.replace(at, cursor=page.last_id, last_created=page.last_created)
    if not page.has_more:
        return at, "done"
    return at, "on" if is_further else "stalled"


def recover(at: Position, *, filtered: bool) -> Position:
    """Where to go on when the object of the cursor was deleted or has left the list.

    At the second of that object, all of it: the others of the same second are read once more and
    found to be known. A list without the filter begins anew.
    """
    until = at.created_until
    if filtered and at.last_created is not None:
        until = at.last_created + 1
    return msgspec.structs.replace(at, created_until=until, cursor=None)


def split(at: Position) -> tuple[Position, Position] | None:
    """What is left to read, in two halves of time: the newer one keeps the cursor.

    None when it is too short for two readers, or has no known end.
    """
    upper = at.created_until if at.last_created is None else at.last_created + 1
    if upper is None:
        return None
    lower = STRIPE_BEGAN if at.created_from is None else at.created_from
    if upper - lower < 2 * _SHORTEST:
        return None
    middle = lower + (upper - lower) // 2
    older = Position(created_from=at.created_from, created_until=middle)
    return msgspec.structs.replace(at, created_from=middle), older
