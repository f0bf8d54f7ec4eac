"""An event becomes Kafka records. Pure: the same event and settings give the same bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal

import msgspec

from relay.core import value
from relay.core.catalog import ALL_RESOURCES, FAN_OUTS, FanOut
from relay.core.errors import UnusableEvent
from relay.core.event import peek
from relay.core.record import Record
from relay.core.routing import (
    is_legal_topic,
    item_key_of,
    json_string,
    key_of,
    record_key,
    resource_of,
)
from relay.core.source import SourceConfig

Origin = Literal["webhook", "snapshot", "reconcile"]
Headers = tuple[tuple[str, bytes], ...]

MAX_HEADER_TEXT: Final = 1000
"""Characters of an error message in a header."""

_OPS: Final = {"created": "c", "deleted": "d"}
_CHANGE_TYPES: Final = {"created": "CREATE", "updated": "UPDATE", "deleted": "DELETE"}
_TRUE: Final = b"true"


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as the inbox holds it. `event_type` is None only for a refused body.

    `body` is None once it was redacted: then there is nothing that a record could be made of.
    """

    inbox_id: int
    event_id: str
    event_type: str | None
    object_type: str | None
    object_id: str | None
    account: str | None
    livemode: bool | None
    api_version: str | None
    created: int | None
    origin: Origin
    body: bytes | None
    replay_id: str | None = None


class Deliver(msgspec.Struct, frozen=True, gc=False):
    """Produce these, in this order. `children_dropped` counts list elements without a key."""

    records: tuple[Record, ...]
    children_dropped: int = 0


SKIP_REASONS: Final = ("unselected", "livemode_mismatch", "redacted")
DEAD_CODES: Final = ("no_route", "invalid_topic")
"""And the codes of UnusableEvent."""


class Skip(msgspec.Struct, frozen=True, gc=False):
    """Deliberately not sent, see `SKIP_REASONS`."""

    reason: str


class Dead(msgspec.Struct, frozen=True, gc=False):
    """Can never be sent as things are, see `DEAD_CODES`."""

    code: str
    message: str


def transform(event: StoredEvent, source: SourceConfig) -> Deliver | Skip | Dead:
    """The records of an event, about 12 µs for 3 KB. Raises nothing for a valid source."""
    if event.body is None:
        return Skip("redacted")
    if source.mode != "any" and event.livemode is (source.mode == "test"):
        return Skip("livemode_mismatch")
    event_type = event.event_type
    if event_type is None:
        return Dead("missing_type", "the event has no type")
    # A snapshot is named by its resource under either routing: `<resource>.snapshot`.
    route_by = "event_type" if event.origin == "snapshot" else source.route_by
    resource = resource_of(event, route_by)
    if resource in source.resources or ALL_RESOURCES in source.resources:
        topic = source.topic_prefix + resource
    elif source.unselected == "DEFAULT_TOPIC":
        topic = source.topic_prefix + source.default_topic
    elif source.unselected == "SKIP":
        return Skip("unselected")
    else:
        return Dead(
            "no_route",
            f"resource {resource!r} is not in the schema of the source, and --unselected is FAIL",
        )
    if not is_legal_topic(topic):
        return Dead("invalid_topic", f"Kafka refuses the topic name {topic[:300]!r}")
    try:
        return _deliver(event, event.body, event_type, source, topic)
    except UnusableEvent as error:
        return Dead(error.code, error.message)


def dead_letter_record(
    event: StoredEvent,
    source: SourceConfig,
    code: str,
    error: str,
    attempts: int,
    limit: int | None,
) -> Record:
    """The copy of a dead letter for the DLQ topic; the source must have one.

    `limit` is the most bytes of value, or None. A longer body is cut there, between two
    characters, and says so in `__truncated`. Raises ValueError for a redacted event.
    """
    if event.body is None:
        raise ValueError(f"event {event.inbox_id} was redacted: there is nothing to copy")
    headers = [
        ("__error_code", header_text(code)),
        ("__error", header_text(error)),
        ("__attempts", b"%d" % attempts),
        ("_source", source.name.encode("utf-8")),
        ("_event_id", event.event_id.encode("utf-8")),
    ]
    if event.event_type is not None:
        headers.append(("_event_type", event.event_type.encode("utf-8")))
    body = event.body
    if limit is not None and len(body) > limit:
        body = _cut(body, limit)
        headers.append(("__truncated", _TRUE))
    return Record(
        topic=source.topic_prefix + source.dlq_topic,
        key=key_of(event.event_id),
        value=body,
        headers=tuple(headers),
        op="",
    )


def header_text(text: str) -> bytes:
    """A message as a header value: bounded, and UTF-8 whatever it quotes."""
    if len(text) > MAX_HEADER_TEXT:
        text = text[: MAX_HEADER_TEXT - 1] + "…"
    return text.encode("utf-8", "backslashreplace")


def _deliver(
    event: StoredEvent, body: bytes, event_type: str, source: SourceConfig, topic: str
) -> Deliver:
    is_snapshot = event.origin == "snapshot"
    op, change = _change(event_type, is_snapshot)
    # Only objects without an id need more of the body than the inbox row tells.
    key = record_key(peek(body)) if event.object_id is None else key_of(event.object_id)
    headers = _headers(event, source)
    parts = value.read(body)
    fields = change
    if source.metadata:
        fields += b"".join(
            (
                b',"_event_id":',
                json_string(event.event_id),
                b',"_event_type":',
                json_string(event_type),
                b',"_event_created":',
                parts.created,
                b',"_api_version":',
                parts.api_version,
                b',"_livemode":',
                parts.livemode,
                b',"_previous_attributes":',
                parts.previous_attributes,
            )
        )
    parent = value.splice(parts.object, value.OWN_NAMES, fields)
    parent_headers = (("__op", op.encode("ascii")), *headers)
    records = [Record(topic, key, parent, parent_headers, op)]
    if op == "d" and source.tombstones:
        records.append(Record(topic, key, None, parent_headers, op))
    dropped = 0
    for name in source.fan_out:
        rule = FAN_OUTS[name]
        if rule.object_type == event.object_type:
            dropped += _fan_out(records, event, source, rule, parts.object, op, headers)
    return Deliver(tuple(records), dropped)


def _fan_out(
    records: list[Record],
    event: StoredEvent,
    source: SourceConfig,
    rule: FanOut,
    payload: bytes,
    op: str,
    headers: Headers,
) -> int:
    """Appends the elements of one list as records; returns how many have no key."""
    fanned_out = value.fan_out(payload, rule)
    if event.object_id is None:
        return len(fanned_out.elements) + fanned_out.dropped
    # A deleted parent says nothing about its elements: they may live on in another.
    op = "u" if op == "d" else op
    headers = (("__op", op.encode("ascii")), *headers)
    if fanned_out.truncated:
        headers = (*headers, ("__list_truncated", _TRUE))
    topic = source.topic_prefix + rule.resource
    context = b'"_ctx_event_id":' + json_string(event.event_id)
    for element_id, element in fanned_out.elements:
        records.append(
            Record(
                topic,
                item_key_of(event.object_id, element_id),
                value.splice(element, value.OWN_CHILD_NAMES, context),
                headers,
                op,
            )
        )
    return fanned_out.dropped


@lru_cache(maxsize=1024)
def _change(event_type: str, is_snapshot: bool) -> tuple[str, bytes]:
    """The op of an event type, and the first fields of its values."""
    if is_snapshot:
        return "r", b'"__changeType":"SNAPSHOT"'
    last = event_type.rpartition(".")[2]
    op = _OPS.get(last, "u")
    field = b'"__changeType":' + json_string(_CHANGE_TYPES.get(last) or last.upper())
    return op, field + b',"__deleted":true' if op == "d" else field


def _headers(event: StoredEvent, source: SourceConfig) -> Headers:
    """What every record of an event says about it, after `__op`."""
    headers: Headers = (
        ("_event_id", event.event_id.encode("utf-8")),
        ("_source", source.name.encode("utf-8")),
        ("_inbox_id", b"%d" % event.inbox_id),
    )
    if event.account is not None:
        headers += (("_account", event.account.encode("utf-8")),)
    if event.replay_id is not None:
        headers += (("_replay_id", event.replay_id.encode("utf-8")),)
    return headers


def _cut(body: bytes, limit: int) -> bytes:
    """At most `limit` bytes, without half a character at the end (UTF-8: at most 3 bytes of it)."""
    limit = max(limit, 0)
    for end in range(limit, max(limit - 4, 0), -1):
        if body[end] & 0xC0 != 0x80:
            return body[:end]
    return body[:limit]
