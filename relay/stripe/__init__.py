"""The only package that speaks to Stripe."""

from relay.stripe.answer import Answer, Delayed, ListedObject, Page, Refused
from relay.stripe.api import StripeApi
from relay.stripe.fetch import fetch_page

__all__ = [
    "Answer",
    "Delayed",
    "ListedObject",
    "Page",
    "Refused",
    "StripeApi",
    "fetch_page",
]
