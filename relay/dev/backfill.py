"""What the Stripe API of the demo lists, all of which a snapshot has to bring to Kafka."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.listings import API_VERSION, listings_of
from relay.core.source import SourceConfig
from relay.dev.stripe_api import FakeStripe
from relay.dev.traffic import digest, exact
from relay.store import snapshots
from relay.store.snapshots import Plan

OBJECTS: Final = {"customer": 160, "charge": 40, "invoice": 40, "payment_intent": 40}
"""How many there are of each resource of the default schema."""


class Listed(msgspec.Struct, frozen=True):
    """An object that the API has; ``content`` is the digest of what it says of it."""

    source: str
    object_id: str
    content: bytes


async def start(connection: AsyncConnection, config: SourceConfig) -> str:
    """Start a snapshot of everything in the schema of a source; returns its id."""
    listings = listings_of(config.resources, config.route_by)
    plan = Plan(
        listings=tuple((each.name(config.route_by), each) for each in listings),
        api_version=API_VERSION,
        livemode=False,
    )
    return await snapshots.start(connection, plan, config.source_id)


def listed(stripe: FakeStripe, config: SourceConfig) -> tuple[Listed, ...]:
    """Everything that the snapshot of this source has to find."""
    found = []
    for listing in listings_of(config.resources, config.route_by):
        resource = stripe.resource(listing.resource)
        expand = frozenset(field for _, field in listing.expand(config.fan_out))
        for row in resource.rows():
            content = digest(exact(resource.render(row, expand)))
            found.append(Listed(config.name, row.id, content))
    return tuple(found)
