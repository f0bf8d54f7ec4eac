"""The lists are data: that they are what Stripe's API has is compared with Stripe's own package."""

from __future__ import annotations

import json
import re
from types import ModuleType
from typing import Any

import pytest
import stripe
import stripe._object_classes as classes

from relay.core.catalog import FAN_OUTS, RESOURCES
from relay.core.listings import (
    API_VERSION,
    LISTINGS,
    NOT_LISTED,
    Listing,
    listing_of,
    listings_of,
)
from relay.core.routing import is_legal_topic, resource_of
from relay.dev import samples
from tests.core.builders import stored

MUST = (
    *("customer", "charge", "payment_intent", "invoice", "subscription", "product", "price"),
    *("payout", "refund", "payment_method", "balance_transaction", "coupon", "plan"),
    "setup_intent",
)
every_listing = pytest.mark.parametrize("listing", LISTINGS, ids=lambda listing: listing.resource)


def official(listing: Listing) -> tuple[Any, Any]:
    """The class of the object, and what its list takes, in Stripe's package."""
    found = classes.get_object_class("V1", listing.object_type)
    module: ModuleType = stripe.params
    for part in listing.object_type.split(".")[:-1]:
        module = getattr(module, part)
    return found, getattr(module, f"{found.__name__}ListParams").__annotations__


def test_the_pinned_version_is_one_that_the_package_knows() -> None:
    assert stripe.api_version >= API_VERSION
    assert re.fullmatch(r"20\d\d-\d\d-\d\d\.[a-z]+", API_VERSION)


def test_all_that_is_promised_can_be_listed() -> None:
    names = {listing.resource for listing in LISTINGS}
    assert names.issuperset(MUST)
    chosen = {resource for resources in RESOURCES.values() for resource in resources}
    assert chosen - names == set(NOT_LISTED)


@every_listing
def test_paths_filters_and_fields_are_those_of_the_api(listing: Listing) -> None:
    found, parameters = official(listing)
    assert listing.path == found.class_url()
    assert {"limit", "starting_after", "expand"} <= set(parameters)
    assert ("created" in parameters) == listing.has_created_filter
    assert listing.created_field in found.__annotations__
    assert ("livemode" in found.__annotations__) == listing.has_livemode
    assert {name for one in listing.passes for name, _ in one} <= set(parameters)
    if listing.parent is not None:
        assert listing.parent.parameter in parameters
        assert listing.parent.object_type in {other.object_type for other in LISTINGS}
    for _, expansion in listing.expansions:
        assert expansion.removeprefix("data.") in found.__annotations__


@every_listing
def test_names_are_topics_and_lead_back_to_their_list(listing: Listing) -> None:
    for route_by in ("event_type", "object"):
        name = listing.name(route_by)
        assert is_legal_topic(name)
        assert listing_of(name, route_by) is listing


@every_listing
def test_the_name_by_object_is_where_live_events_of_the_object_go(listing: Listing) -> None:
    event = stored("some.event", json.dumps({"id": "x_1", "object": listing.object_type}))
    assert listing.name("object") == resource_of(event, "object")


def test_the_name_by_event_type_is_the_topic_of_live_events_if_they_have_one_of_their_own() -> None:
    carried: dict[str, set[str]] = {}
    for event_type in samples.event_types():
        carried.setdefault(event_type.object_type, set()).add(event_type.name.partition(".")[0])
    elsewhere = {
        listing.resource
        for listing in LISTINGS
        if listing.resource not in carried.get(listing.object_type, set())
    }
    # Their live events come as `customer.subscription.*` and `charge.dispute.*`; of balance
    # transactions there are none.
    assert elsewhere == {"subscription", "dispute", "balance_transaction"}


def test_a_schema_has_the_lists_of_its_resources() -> None:
    assert [one.resource for one in listings_of({"charge", "customer", "mandate"}, "object")] == [
        "customer",
        "charge",
    ]
    assert listings_of({"*"}, "event_type") == LISTINGS
    assert listings_of(set(), "event_type") == ()
    assert listing_of("checkout", "object") is None
    assert listing_of("checkout_session", "event_type") is None
    assert listing_of("mandate", "event_type") is None


def test_only_fan_outs_that_need_it_expand_something() -> None:
    charge = listing_of("charge", "event_type")
    invoice = listing_of("invoice", "event_type")
    assert charge is not None
    assert invoice is not None
    assert charge.expand(FAN_OUTS) == (("expand[]", "data.refunds"),)
    assert charge.expand(["invoice.lines"]) == ()
    assert invoice.expand(FAN_OUTS) == ()
    assert {name for listing in LISTINGS for name, _ in listing.expansions} <= set(FAN_OUTS)


def test_nothing_is_hidden_that_has_to_be_asked_for() -> None:
    asked = {listing.resource: listing.passes for listing in LISTINGS if listing.passes != ((),)}
    assert json.loads(json.dumps(asked)) == {
        "subscription": [[["status", "all"]]],
        "price": [[["active", "true"]], [["active", "false"]]],
    }
