"""Sources, stored events and what becomes of them, for the tests of the transform."""

from __future__ import annotations

import json
from typing import Any

from relay.core.event import peek
from relay.core.record import Record
from relay.core.source import SourceConfig
from relay.core.transform import Deliver, StoredEvent, transform


def source(**settings: Any) -> SourceConfig:
    given: dict[str, Any] = {"source_id": 1, "public_id": "src_1", "name": "main"}
    return SourceConfig(**(given | settings))


def stored(
    event_type: str = "customer.updated",
    target: str = '{"id":"cus_1","object":"customer"}',
    *,
    previous: str | None = None,
    envelope: str = "",
    **changes: Any,
) -> StoredEvent:
    """A row of the inbox, as the receiver would have written it."""
    about = json.loads(target)
    tail = "" if previous is None else f',"previous_attributes":{previous}'
    body = (
        f'{{"id":"evt_1","object":"event","type":{json.dumps(event_type)},"created":1780000000,'
        f'"api_version":"2026-08-26.dahlia","livemode":false,'
        f'"data":{{"object":{target}{tail}}}{envelope}}}'
    )
    fields: dict[str, Any] = {
        "inbox_id": 7,
        "event_id": "evt_1",
        "event_type": event_type,
        "object_type": about.get("object"),
        "object_id": about.get("id"),
        "account": None,
        "livemode": False,
        "api_version": "2026-08-26.dahlia",
        "created": 1780000000,
        "origin": "webhook",
        "body": body.encode(),
    }
    return StoredEvent(**(fields | changes))


def received(body: bytes) -> StoredEvent:
    """A row of the inbox with this body, as the receiver would have written it."""
    event = peek(body)
    return StoredEvent(
        inbox_id=1,
        event_id=event.event_id,
        event_type=event.event_type,
        object_type=event.object_type,
        object_id=event.object_id,
        account=event.account,
        livemode=event.livemode,
        api_version=event.api_version,
        created=event.created,
        origin="webhook",
        body=body,
    )


def records(event: StoredEvent, **settings: Any) -> tuple[Record, ...]:
    outcome = transform(event, source(**settings))
    assert isinstance(outcome, Deliver)
    return outcome.records


def value_of(record: Record) -> dict[str, Any]:
    assert record.value is not None
    parsed: dict[str, Any] = json.loads(record.value)
    return parsed
