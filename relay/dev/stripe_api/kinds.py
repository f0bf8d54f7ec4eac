"""What the fake knows of each resource beyond its listing: data, so that the rest has no branches.

The filters are a part of those that the API has; the tests compare them with Stripe's own package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from relay.core.listings import LISTINGS, Listing


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One list endpoint of the fake."""

    listing: Listing
    states: tuple[Mapping[str, Any], ...] = ({},)
    """Members in which objects of this kind differ; object by object in turn."""
    filters: tuple[str, ...] = ()
    """Members that a query may ask for, beside the cursors and `created`."""
    hidden: Mapping[str, tuple[object, ...]] = {}
    """Values of a filter that a query without it does not bring."""
    shows_all: str | None = None
    """The value of that filter which brings everything."""


_ACTIVE: Final[tuple[Mapping[str, Any], ...]] = ({"active": True}, {"active": False})
_MORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "subscription": {
        "states": ({"status": "active"}, {"status": "canceled"}, {"status": "past_due"}),
        "filters": ("status", "customer"),
        "hidden": {"status": ("canceled", "incomplete_expired")},
        "shows_all": "all",
    },
    "price": {"states": _ACTIVE, "filters": ("active",), "hidden": {"active": (False,)}},
    "plan": {"states": _ACTIVE, "filters": ("active",)},
    "product": {"states": _ACTIVE, "filters": ("active",)},
    "promotion_code": {"states": _ACTIVE, "filters": ("active",)},
    "tax_rate": {"states": _ACTIVE, "filters": ("active",)},
    "payout": {"states": ({"status": "paid"}, {"status": "in_transit"}), "filters": ("status",)},
    "charge": {"filters": ("customer",)},
    "checkout": {"filters": ("customer",)},
    "credit_note": {"filters": ("customer",)},
    "invoice": {"filters": ("customer",)},
    "invoiceitem": {"filters": ("customer",)},
    "payment_intent": {"filters": ("customer",)},
    "payment_method": {"filters": ("customer",)},
    "quote": {"filters": ("customer",)},
    "setup_intent": {"filters": ("customer",)},
    "subscription_schedule": {"filters": ("customer",)},
}

KINDS: Final = {
    listing.resource: Kind(listing=listing, **_MORE.get(listing.resource, {}))
    for listing in LISTINGS
}
BY_PATH: Final = {kind.listing.path: kind for kind in KINDS.values()}
