"""What to ask Stripe for next, and what an answer changes about the range. Pure."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from relay.core import scan
from relay.core.listings import Listing, Parameters, listing_of
from relay.core.scan import Position, Progress, Seen
from relay.store.ranges import Range, Step
from relay.stripe import Page


class Request(msgspec.Struct, frozen=True):
    """One page to ask for. ``of_parents`` when it brings no objects but whose lists to read."""

    path: str
    parameters: Parameters
    created_field: str
    of_parents: bool


def next_request(claimed: Range, listing: Listing, fan_out: Collection[str]) -> Request:
    """The next page of a range."""
    if claimed.parents is None:
        query = scan.parameters(claimed.at, filtered=listing.has_created_filter)
        fixed = listing.passes[claimed.pass_] + listing.expand(fan_out)
        return Request(listing.path, fixed + tuple(query.items()), listing.created_field, False)
    parent = _parent(listing)
    if claimed.parents:
        assert listing.parent is not None
        fixed = listing.passes[claimed.pass_] + listing.expand(fan_out)
        of_one = ((listing.parent.parameter, claimed.parents[0]),)
        query = scan.parameters(Position(cursor=claimed.child_cursor), filtered=False)
        query_of_one = fixed + of_one + tuple(query.items())
        return Request(listing.path, query_of_one, listing.created_field, False)
    query = scan.parameters(claimed.at, filtered=parent.has_created_filter)
    fixed = parent.passes[0] + tuple(query.items())
    return Request(parent.path, fixed, parent.created_field, True)


def after_page(claimed: Range, request: Request, page: Page) -> tuple[Step, Progress]:
    """The range behind a page.

    The first page closes the window, behind the second of its Date: what was created in that
    second may be in it, and what comes later has a live event.
    """
    at = claimed.at
    # Later pages may come from a server whose clock is behind: they leave the window as it is.
    is_first = at.cursor is None and at.last_created is None
    if at.created_until is None or (is_first and at.created_until > page.date + 1):
        at = msgspec.structs.replace(at, created_until=page.date + 1)
    last = page.objects[-1] if page.objects else None
    seen = Seen(
        last_id=last.id if last else None,
        last_created=last.created if last else None,
        has_more=page.has_more,
    )
    if claimed.parents is None:
        at, progress = scan.advance(at, seen)
        return _step(claimed, at, done=progress == "done"), progress
    if request.of_parents:
        at, progress = scan.advance(at, seen)
        parents = tuple(each.id for each in page.objects)
        no_more = progress == "done"
        step = Step(
            at=at,
            parents=parents,
            parents_done=no_more,
            child_cursor=None,
            done=no_more and not parents,
        )
        return step, progress
    child, progress = scan.advance(Position(cursor=claimed.child_cursor), seen)
    if progress == "done":
        return next_parent(claimed, at), "on"
    step = Step(
        at=at,
        parents=claimed.parents,
        parents_done=claimed.parents_done,
        child_cursor=child.cursor,
        done=False,
    )
    return step, progress


def next_parent(claimed: Range, at: Position) -> Step:
    """The first parent's list is done, or there is no such parent any more."""
    parents = (claimed.parents or ())[1:]
    return Step(
        at=at,
        parents=parents,
        parents_done=claimed.parents_done,
        child_cursor=None,
        done=claimed.parents_done and not parents,
    )


def after_loss(claimed: Range, request: Request, listing: Listing) -> Step:
    """The range after the object of its cursor was deleted, or has left the list."""
    if claimed.parents:
        return _step(claimed, claimed.at, done=False)  # that parent's list from its beginning
    listed = _parent(listing) if request.of_parents else listing
    at = scan.recover(claimed.at, filtered=listed.has_created_filter)
    return _step(claimed, at, done=False)


def _step(claimed: Range, at: Position, *, done: bool) -> Step:
    return Step(
        at=at,
        parents=claimed.parents,
        parents_done=claimed.parents_done,
        child_cursor=None,
        done=done,
    )


def can_split(claimed: Range, listing: Listing) -> bool:
    """Whether the list that the range walks down can be read from two places."""
    if claimed.parents is not None:
        return _parent(listing).has_created_filter and not claimed.parents_done
    return listing.has_created_filter


def _parent(listing: Listing) -> Listing:
    assert listing.parent is not None, "a resource without a parent is not read by parents"
    parent = listing_of(listing.parent.object_type, "object")
    assert parent is not None, "the catalog names its parents"
    return parent
