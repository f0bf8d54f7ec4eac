"""A Stripe key is tried before a command relies on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.cli.failures import Failure
from relay.cli.output import warn

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.store.snapshots import Plan


async def try_key(settings: Settings, stripe_key: str, wanted: Plan, source: str) -> None:
    """Warn of what it may not read. Raises Failure, with the fix, when it is refused as such."""
    from relay import stripe

    try:
        warnings = await stripe.try_key(
            settings.stripe_api_base, stripe_key, wanted.listings, wanted.by_parent
        )
    except stripe.KeyRefusedError as error:
        raise Failure(
            f"Stripe refuses the key: {error.message}; give the source another one:"
            f" `relay source update {source} --stripe-api-key …`"
        ) from error
    for warning in warnings:
        warn(warning)
