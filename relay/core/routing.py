"""Where an event goes: its topic, its key and the lane that keeps its object's order."""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final, Literal, Protocol

import msgspec

from relay.core import tokens
from relay.core.catalog import CUSTOMER_KEYED, SINGLETONS
from relay.core.event import Event

LANES: Final = 64
"""Lanes per source, fixed when the database is migrated: another number would reorder what is
already queued."""

MAX_TOPIC_LENGTH: Final = 249

RouteBy = Literal["event_type", "object"]

_legal_topic: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}").fullmatch
_encode: Final = msgspec.json.Encoder().encode


class Typed(Protocol):
    """What routing looks at; an Event or a stored one."""

    @property
    def event_type(self) -> str | None: ...
    @property
    def object_type(self) -> str | None: ...


def record_key(event: Event) -> bytes:
    """The Kafka key: `{"id":"..."}` of whatever the event is about, never null.

    The object's id; else, for objects of which there is one per account or customer, their name
    or the customer's id; else the event's own id.
    """
    identity = event.object_id
    if identity is None and event.object_type is not None:
        if event.object_type in SINGLETONS:
            identity = event.object_type
        elif event.object_type in CUSTOMER_KEYED:
            identity = event.customer
    return key_of(event.event_id if identity is None else identity)


def key_of(identity: str) -> bytes:
    """`{"id":"<identity>"}` as compact JSON."""
    return b'{"id":' + json_string(identity) + b"}"


def item_key_of(parent: str, element: str) -> bytes:
    """The key of one element of a fanned-out list."""
    return b'{"id":' + json_string(parent) + b',"item_id":' + json_string(element) + b"}"


def json_string(text: str) -> bytes:
    """A JSON string in UTF-8; of a lone surrogate, which UTF-8 has not, the escape."""
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return tokens.quote(text)


def lane_of(key: bytes) -> tuple[int, int]:
    """The lane of an event within its source, and the hash of its Kafka key (signed, 64 bit).

    Of the key alone: the same id in two accounts of a Connect platform is one key to consumers,
    and it is the order of a key that is promised. The same on every host and in every release:
    what is queued under it has to stay in line.
    """
    digest = blake2b(key, digest_size=8).digest()
    key_hash = int.from_bytes(digest, "big", signed=True)
    return key_hash % LANES, key_hash


def resource_of(event: Typed, route_by: RouteBy) -> str:
    """The resource an event belongs to, for schema and topic alike.

    Under `object` an object that does not say what it is falls back to the event's type.
    """
    if route_by == "object" and event.object_type:
        return event.object_type.replace(".", "_")
    return (event.event_type or "").partition(".")[0]


def is_legal_topic(topic: str) -> bool:
    """Whether Kafka takes the name (org.apache.kafka.common.internals.Topic)."""
    return _legal_topic(topic) is not None and topic not in (".", "..")
