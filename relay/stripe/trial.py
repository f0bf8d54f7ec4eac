"""Trying a key before it is relied on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from relay.core.errors import RelayError
from relay.core.listings import BY_PARENT_HINT, Listing
from relay.stripe.answer import Delayed, Refused
from relay.stripe.api import StripeApi


class KeyRefusedError(RelayError):
    """Stripe refuses a key as such; the message is Stripe's."""

    default_code = "key_refused"


async def try_key(
    api_base: str,
    stripe_key: str,
    listings: Sequence[tuple[str, Listing]],
    by_parent: Collection[str],
) -> list[str]:
    """Ask for one object of each resource, so that a wrong key is told at once and not in a log.

    Returns what to warn of: what may not be read does not keep the others from it. Raises
    KeyRefusedError.
    """
    warnings = []
    async with StripeApi(api_base, stripe_key) as api:
        for name, listing in listings:
            fixed = (*listing.passes[0], ("limit", "1"))
            match await api.list_page(listing.path, fixed, created_field=listing.created_field):
                case Refused(scope="snapshot") as refusal:
                    raise KeyRefusedError(str(refusal))
                case Refused() as refusal if name not in by_parent:  # asked another way
                    is_by_parent = listing.is_about_parent(refusal.param)
                    hint = f": {BY_PARENT_HINT}" if is_by_parent else ""
                    warnings.append(f"{name}: {refusal}{hint}")
                case Delayed() as answer:
                    told = f"Stripe does not answer now: {answer}; the snapshot goes on trying"
                    return [*warnings, told]
    return warnings
