"""What a snapshot is going to read, or why it cannot be."""

from __future__ import annotations

from datetime import datetime
from difflib import get_close_matches

import msgspec

from relay.core.errors import ConfigError
from relay.core.listings import (
    API_VERSION,
    LISTINGS,
    NOT_LISTED,
    Listing,
    listing_of,
    listings_of,
)
from relay.core.source import SourceConfig
from relay.core.stripe_key import key_mode
from relay.store.snapshots import Plan


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The flags of a start."""

    resources: tuple[str, ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    per_customer: bool = False


def plan(config: SourceConfig, stripe_key: str | None, asked: Asked) -> Plan:
    """Raises ConfigError with the fix where something stands in the way."""
    if stripe_key is None:
        raise ConfigError(
            f"source {config.name} has no Stripe key: make a restricted one that may read, and"
            f" `relay source update {config.name} --stripe-api-key rk_…`"
        )
    mode = key_mode(stripe_key)
    if config.mode not in ("any", mode):
        raise ConfigError(
            f"source {config.name} takes {config.mode} events only, and its Stripe key is of {mode}"
            f" mode: give it a {config.mode} key, or `relay source update {config.name} --mode any`"
        )
    after, before = asked.created_after, asked.created_before
    if after is not None and before is not None and after >= before:
        raise ConfigError("--created-after must be before --created-before")
    listings = _listings(config, asked.resources)
    by_parent = {name for name, each in listings if each.parent} if asked.per_customer else set()
    if asked.per_customer and not by_parent:
        raise ConfigError("--per-customer: none of the resources is listed customer by customer")
    return Plan(
        listings=listings,
        api_version=API_VERSION,
        livemode=mode == "live",
        created_after=after,
        created_before=before,
        by_parent=frozenset(by_parent),
    )


def _listings(config: SourceConfig, resources: tuple[str, ...]) -> tuple[tuple[str, Listing], ...]:
    possible = {
        each.name(config.route_by): each for each in listings_of(config.resources, config.route_by)
    }
    if not possible:
        raise ConfigError(
            f"Stripe can list none of the resources of source {config.name}"
            f" ({', '.join(config.resources)}): add some with `relay source update --schema`"
        )
    for name in resources:
        if name not in possible:
            raise ConfigError(_why_not(name, config, possible))
    return tuple((name, possible[name]) for name in dict.fromkeys(resources or sorted(possible)))


def _why_not(name: str, config: SourceConfig, possible: dict[str, Listing]) -> str:
    if name in NOT_LISTED:
        return f"{name} cannot be snapshotted: {NOT_LISTED[name]}"
    if listing_of(name, config.route_by) is not None:
        return (
            f"{name} is not in the schema of source {config.name}: its snapshot would have no"
            f" topic; add it with `relay source update {config.name} --schema …`"
        )
    known = [each.name(config.route_by) for each in LISTINGS]
    near = get_close_matches(name, known, 1, 0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name} cannot be snapshotted: of source {config.name} {', '.join(possible)} can{hint}"
