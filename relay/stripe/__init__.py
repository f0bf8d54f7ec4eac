"""The only package that speaks to Stripe."""

from relay.stripe.answer import (
    Answer,
    Delayed,
    DelayVerdict,
    ListedObject,
    Page,
    RefusalVerdict,
    Refused,
)
from relay.stripe.api import StripeApi
from relay.stripe.fetch import fetch_page
from relay.stripe.trial import KeyRefusedError, try_key

__all__ = [
    "Answer",
    "DelayVerdict",
    "Delayed",
    "KeyRefusedError",
    "ListedObject",
    "Page",
    "RefusalVerdict",
    "Refused",
    "StripeApi",
    "fetch_page",
    "try_key",
]
