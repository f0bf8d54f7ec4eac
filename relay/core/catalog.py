"""What is known about Stripe's resources: data, never a branch elsewhere.

None of it is a gate. An event of a type that is not listed here is relayed like any other.
"""

from __future__ import annotations

from typing import Final

import msgspec


class FanOut(msgspec.Struct, frozen=True):
    """A list inside an object whose elements can become records of their own."""

    name: str
    """What the user writes: `invoice.lines`."""
    object_type: str
    """`data.object.object` of the parent."""
    field: str
    """The member of the parent that holds the list."""
    resource: str
    """The topic of the elements, before the prefix."""


FAN_OUTS: Final = {
    fan_out.name: fan_out
    for fan_out in (
        FanOut("invoice.lines", "invoice", "lines", "invoice_lines"),
        FanOut("charge.refunds", "charge", "refunds", "charge_refunds"),
        FanOut("subscription.items", "subscription", "items", "subscription_items"),
    )
}

SINGLETONS: Final = frozenset({"balance", "balance_settings", "tax.settings"})
"""Objects without an id of which an account has exactly one: the object's name is the key."""

CUSTOMER_KEYED: Final = frozenset({"cash_balance", "entitlements.active_entitlement_summary"})
"""Objects without an id of which a customer has exactly one: the customer's id is the key."""

RESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "customers and subscriptions": (
        "customer",
        "subscription_schedule",
        "setup_intent",
        "payment_method",
        "mandate",
    ),
    "payments and charges": (
        "payment_intent",
        "charge",
        "refund",
        "payout",
        "transfer",
        "topup",
        "application_fee",
        "balance_transaction",
    ),
    "billing": (
        "invoice",
        "invoiceitem",
        "credit_note",
        "coupon",
        "promotion_code",
        "plan",
        "quote",
        "tax_rate",
    ),
    "checkout and storefront": ("product", "price", "checkout"),
    "other": ("review", "source"),
}
"""Resources that people choose first, by category: for pickers, completion and docs."""

DEFAULT_RESOURCES: Final = ("customer", "payment_intent", "charge", "invoice")

ALL_RESOURCES: Final = "*"
