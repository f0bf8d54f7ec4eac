"""Objects of a page become events of the inbox. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from relay.core.errors import UnusableEvent
from relay.core.event import around
from relay.core.routing import json_string
from relay.core.source import SourceConfig
from relay.store.inbox import NewEvent, new_event, rejected_event
from relay.store.ranges import Range
from relay.stripe import ListedObject

ORIGIN = "snapshot"


def event_id_of(snapshot_id: str, object_id: str, resource: str | None = None) -> str:
    """The same whenever the object is read again in the same snapshot, which deduplicates it.

    Ids are not unique across resources: every plan is a price of the same id too, and the ids of
    plans, products and coupons are people's own. ``resource`` tells the second one apart.
    """
    return f"snap_{snapshot_id}_{object_id if resource is None else f'{resource}:{object_id}'}"


def is_wanted(claimed: Range, listed: ListedObject) -> bool:
    """Whether an object lies in the window that was asked for; Stripe may not have filtered it."""
    created = listed.created
    if created is None:
        return True
    return (claimed.created_after is None or created >= claimed.created_after) and (
        claimed.created_before is None or created < claimed.created_before
    )


def events_of(
    claimed: Range,
    listed: Sequence[ListedObject],
    requested_at: int,
    source: SourceConfig,
    *,
    told_apart: bool = False,
) -> list[NewEvent]:
    """The events of objects; their tokens stand in the bodies as Stripe sent them.

    ``requested_at`` is the second, in Stripe's time, at which the page was asked for;
    ``told_apart`` when objects of another resource have the plain ids already.
    """
    resource = claimed.resource if told_apart else None
    event_type = f"{claimed.resource}.snapshot"
    # All but the id and the object: the same for all of a page.
    head = b"".join(
        (
            b',"object":"event","api_version":',
            json_string(claimed.api_version),
            b',"created":%d' % requested_at,
            b',"livemode":true' if claimed.livemode else b',"livemode":false',
            b',"type":',
            json_string(event_type),
            b',"data":{"object":',
        )
    )

    def event_of(one: ListedObject) -> NewEvent:
        event_id = event_id_of(claimed.snapshot_id, one.id, resource)
        body = b"".join((b'{"id":', json_string(event_id), head, one.raw, b"}}"))
        try:
            event = around(
                one.raw,
                event_id=event_id,
                event_type=event_type,
                object_id=one.id,
                object_type=one.object_type,
                livemode=claimed.livemode,
                api_version=claimed.api_version,
                created=requested_at,
            )
        except UnusableEvent as error:
            return rejected_event(
                body,
                source,
                origin=ORIGIN,
                signature_header=None,
                code=error.code,
                message=error.message,
            )
        return new_event(
            event, body, source_id=source.source_id, origin=ORIGIN, signature_header=None
        )

    return [event_of(one) for one in listed]
