"""The lists of the fake beside a list that is filtered and cut the slow way, and beside Stripe."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
import stripe
import stripe._object_classes as classes
from hypothesis import given
from hypothesis import strategies as st

from relay.dev import samples
from relay.dev.stripe_api.dataset import CursorGoneError, Part, Query, Resource, Row
from relay.dev.stripe_api.kinds import KINDS, Kind
from relay.dev.stripe_api.limits import Limits, Traffic

SUBSCRIPTION = KINDS["subscription"]
CUSTOMERS = ("cus_a", "cus_b")


def slow_select(resource: Resource, query: Query) -> Part:
    """What `select` has to find, by looking at each object."""
    cursor = query.starting_after or query.ending_before
    shown = [row for row in resource.rows() if is_shown(row, query)]
    ids = [row.id for row in shown]
    if cursor is not None and cursor not in ids:
        raise CursorGoneError("", cursor)
    if query.starting_after is not None:
        shown = shown[ids.index(query.starting_after) + 1 :]
    if query.ending_before is not None:
        shown = shown[: ids.index(query.ending_before)]
    shown = [row for row in shown if query.created_from <= row.created < query.created_before]
    if query.ending_before is not None:
        return Part(shown[-query.limit :], len(shown) > query.limit)
    return Part(shown[: query.limit], len(shown) > query.limit)


def is_shown(row: Row, query: Query) -> bool:
    status = SUBSCRIPTION.states[row.state]["status"]
    asked = query.filters.get("status")
    if query.filters.get("customer") not in (None, row.customer):
        return False
    return asked == "all" or (status != "canceled" if asked is None else status == asked)


@given(data=st.data())
def test_lists_are_cut_as_the_slow_way_cuts_them(data: st.DataObject) -> None:
    resource = Resource(SUBSCRIPTION, "seed", False, CUSTOMERS)
    seconds = st.integers(0, 6)
    for second in data.draw(st.lists(seconds, max_size=30)):
        resource.create(second)
    ids = resource.ids()
    for object_id in data.draw(
        st.lists(st.sampled_from(ids), max_size=5, unique=True) if ids else st.just([])
    ):
        resource.delete(object_id)
    for object_id in data.draw(
        st.lists(st.sampled_from(resource.ids()), max_size=5) if len(resource) else st.just([])
    ):
        resource.change_state(object_id, data.draw(st.integers(0, 2)))
    cursors = st.sampled_from([None, *ids])
    after = data.draw(cursors)
    filters: dict[str, Any] = {}
    for name, values in (("status", ("all", "active", "canceled")), ("customer", CUSTOMERS)):
        value = data.draw(st.sampled_from((None, *values)))
        filters |= {} if value is None else {name: value}
    query = Query(
        limit=data.draw(st.integers(1, 8)),
        starting_after=after,
        ending_before=data.draw(cursors) if after is None else None,
        created_from=data.draw(seconds),
        created_before=data.draw(seconds),
        filters=filters,
    )
    try:
        expected = slow_select(resource, query)
    except CursorGoneError:
        with pytest.raises(CursorGoneError):
            resource.select(query)
        return
    found = resource.select(query)
    assert (list(found.rows), found.has_more) == (list(expected.rows), expected.has_more)


@pytest.mark.parametrize("kind", KINDS.values(), ids=attrgetter("listing.resource"))
def test_filters_are_some_of_those_of_the_api(kind: Kind) -> None:
    official = classes.get_object_class("V1", kind.listing.object_type)
    module = stripe.params.checkout if "." in kind.listing.object_type else stripe.params
    parameters = getattr(module, f"{official.__name__}ListParams").__annotations__
    assert set(kind.filters) <= set(parameters)
    assert set(kind.hidden) <= set(kind.filters)
    for state in kind.states:
        assert set(state) <= set(official.__annotations__)


@pytest.mark.parametrize("kind", KINDS.values(), ids=attrgetter("listing.resource"))
def test_objects_that_can_be_asked_for_by_customer_name_theirs(kind: Kind) -> None:
    resource = Resource(kind, "seed", False, CUSTOMERS)
    row = resource.create(1)
    if "customer" in kind.filters:
        assert b'"customer": "cus_a"' in resource.render(row)
    assert samples.PLACEHOLDER.encode() not in resource.render(row)
    assert str(samples.EPOCH).encode() not in resource.render(row)


def test_ids_are_never_given_twice() -> None:
    for kind in KINDS.values():
        resource = Resource(kind, "seed", False, ())
        resource.fill(500, 1000, 10)
        resource.delete_random()
        resource.create(5)
        assert len({*resource.ids(), *resource.deleted}) == 501


def test_the_most_requests_in_a_second_are_counted_over_any_second() -> None:
    times = iter([0.0, 0.6, 0.9, 1.1, 1.5, 1.7, 3.0])
    traffic = Traffic(Limits(), lambda: next(times))
    for _ in range(7):
        traffic.admit("acct", "charge")
    assert traffic.peak() == traffic.peak("acct", "charge") == 4
    assert traffic.peak("acct", "price") == 0
    assert traffic.requests() == traffic.requests("charge") == 7
    assert traffic.resources() == ["charge"]


def test_limits_are_those_of_the_last_second_and_refusals_do_not_count() -> None:
    now = [0.0]
    traffic = Traffic(Limits(account=3, endpoint=2), lambda: now[0])

    def ask(resource: str, second: float) -> str | None:
        now[0] = second
        return traffic.admit("acct", resource)

    assert [ask("charge", 0.0), ask("charge", 0.5)] == [None, None]
    assert ask("charge", 0.6) == "endpoint-rate"
    assert ask("price", 0.7) is None
    assert ask("refund", 0.8) == "global-rate"
    assert traffic.admit("other", "refund") is None
    assert ask("charge", 1.0) is None
    assert ask("charge", 1.4) == "global-rate"
