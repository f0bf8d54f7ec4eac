"""What Stripe's API can list, and how: data, never a branch elsewhere.

Every list answers ``{"object":"list","data":[…],"has_more":…,"url":…}`` with at most 100 objects,
newest first (no other order exists), and goes on behind the object that ``starting_after`` names.
Deleted objects are never listed. Paths, filters and fields are those of Stripe's OpenAPI document
of the pinned version; the tests compare them with Stripe's own Python package.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from relay.core.catalog import ALL_RESOURCES
from relay.core.routing import RouteBy

API_VERSION: Final = "2026-08-26.dahlia"
"""Sent with every request as ``Stripe-Version``: the shape of what is listed must not change with
the default of an account."""

MAX_PAGE: Final = 100
"""The most objects that a page can have (``limit``)."""

Parameters = tuple[tuple[str, str], ...]
"""Query parameters in order; a name may repeat."""


class Parent(msgspec.Struct, frozen=True):
    """A list that can also be asked for once per object of another one."""

    object_type: str
    """Whose ids."""
    parameter: str
    """The filter that takes one of them."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One list endpoint."""

    resource: str
    """The resource where routing goes by the type of the event: its name and its topic."""
    path: str
    object_type: str
    """``object`` of its elements; it names the resource where routing goes by the object."""
    has_created_filter: bool = True
    """Without one a scan cannot be cut into ranges of time."""
    created_field: str = "created"
    """The member of an object that the order and the ``created`` filter go by."""
    passes: tuple[Parameters, ...] = ((),)
    """What has to be asked for, one after the other, to see all there is."""
    expansions: Parameters = ()
    """Fan-outs whose list is only there when it is asked for, and how it is asked for."""
    parent: Parent | None = None
    has_livemode: bool = True
    """Without it the mode of the key says whether the objects are live."""
    note: str = ""
    """What the list leaves out, for people to know."""

    def name(self, route_by: RouteBy) -> str:
        """The resource's name and topic, as in `relay.core.routing.resource_of`."""
        return self.resource if route_by == "event_type" else self.object_type.replace(".", "_")

    def expand(self, fan_outs: Collection[str]) -> Parameters:
        """The parameters that bring the lists which these fan-outs need."""
        return tuple(("expand[]", field) for name, field in self.expansions if name in fan_outs)

    def is_about_parent(self, parameter: str | None) -> bool:
        """Whether a refusal of this parameter says that a parent is missing, or gone."""
        return self.parent is not None and self.parent.parameter == parameter


BY_PARENT_HINT: Final = "list them customer by customer: `relay snapshot start … --per-customer`"

LISTINGS: Final = (
    Listing(resource="customer", path="/v1/customers", object_type="customer"),
    Listing(
        resource="charge",
        path="/v1/charges",
        object_type="charge",
        # Not part of a charge unless expanded since API version 2022-11-15.
        expansions=(("charge.refunds", "data.refunds"),),
    ),
    Listing(resource="payment_intent", path="/v1/payment_intents", object_type="payment_intent"),
    Listing(resource="invoice", path="/v1/invoices", object_type="invoice"),
    Listing(
        resource="subscription",
        path="/v1/subscriptions",
        object_type="subscription",
        # "By default, returns a list of subscriptions that have not been canceled."
        passes=((("status", "all"),),),
    ),
    Listing(resource="product", path="/v1/products", object_type="product"),
    Listing(
        resource="price",
        path="/v1/prices",
        object_type="price",
        # "Returns a list of your active prices", unless told otherwise.
        passes=((("active", "true"),), (("active", "false"),)),
        note="prices made inline are never listed; one that is (de)activated between the two"
        " passes may be missing from both, and comes with its live event",
    ),
    Listing(resource="payout", path="/v1/payouts", object_type="payout"),
    Listing(resource="refund", path="/v1/refunds", object_type="refund", has_livemode=False),
    Listing(
        resource="payment_method",
        path="/v1/payment_methods",
        object_type="payment_method",
        has_created_filter=False,
        parent=Parent("customer", "customer"),
        note="older API versions list them per customer only",
    ),
    Listing(
        resource="balance_transaction",
        path="/v1/balance_transactions",
        object_type="balance_transaction",
        has_livemode=False,
    ),
    Listing(resource="coupon", path="/v1/coupons", object_type="coupon"),
    Listing(resource="plan", path="/v1/plans", object_type="plan"),
    Listing(resource="setup_intent", path="/v1/setup_intents", object_type="setup_intent"),
    Listing(
        resource="subscription_schedule",
        path="/v1/subscription_schedules",
        object_type="subscription_schedule",
    ),
    Listing(resource="transfer", path="/v1/transfers", object_type="transfer"),
    Listing(resource="topup", path="/v1/topups", object_type="topup"),
    Listing(resource="application_fee", path="/v1/application_fees", object_type="application_fee"),
    Listing(resource="dispute", path="/v1/disputes", object_type="dispute"),
    Listing(
        resource="invoiceitem",
        path="/v1/invoiceitems",
        object_type="invoiceitem",
        created_field="date",
    ),
    Listing(resource="credit_note", path="/v1/credit_notes", object_type="credit_note"),
    Listing(resource="promotion_code", path="/v1/promotion_codes", object_type="promotion_code"),
    Listing(resource="quote", path="/v1/quotes", object_type="quote", has_created_filter=False),
    Listing(resource="tax_rate", path="/v1/tax_rates", object_type="tax_rate"),
    Listing(resource="checkout", path="/v1/checkout/sessions", object_type="checkout.session"),
    Listing(
        resource="review",
        path="/v1/reviews",
        object_type="review",
        note="closed reviews are never listed",
    ),
)

NOT_LISTED: Final = {
    "mandate": "the Stripe API has no list of mandates",
    "source": "the Stripe API lists sources one customer at a time only",
}
"""Resources that people choose and that no snapshot can bring, with the reason."""


def listing_of(name: str, route_by: RouteBy) -> Listing | None:
    """The list of a resource; None for one that the API does not list as a whole."""
    return next((listing for listing in LISTINGS if listing.name(route_by) == name), None)


def listings_of(schema: Collection[str], route_by: RouteBy) -> tuple[Listing, ...]:
    """Of the resources of a schema, those that can be listed; ``*`` stands for every one."""
    return tuple(
        listing
        for listing in LISTINGS
        if ALL_RESOURCES in schema or listing.name(route_by) in schema
    )
