"""What the API says, as structs; OpenAPI describes them at ``/schema``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from relay.admin import actions, bodies
from relay.admin.access import Access
from relay.admin.actions import Action
from relay.admin.desk import Desk
from relay.store.listing import Page
from relay.store.proof import Proof


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event, as in the view relay.events."""

    id: int
    source: str
    event_id: str
    event_type: str | None
    object_type: str | None
    object_id: str | None
    account: str | None
    livemode: bool | None
    api_version: str | None
    event_created: datetime | None
    received_at: datetime
    origin: str
    state: str
    attempts: int
    next_attempt_at: datetime | None
    last_error_code: str | None
    last_error: str | None
    settled_at: datetime | None
    skip_reason: str | None
    body_sha256: str
    body_bytes: int


class Events(msgspec.Struct, frozen=True):
    """The newest first; ``next`` is the ``before`` of the next ones, null at the end."""

    events: list[Event]
    next: int | None


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A record that Kafka acknowledged, or why there is none."""

    produced_at: datetime
    kind: str
    record: int
    topic: str | None
    partition: int | None
    offset: int | None
    key: str | None
    op: str | None
    skipped: str | None
    attempts: int
    replay_id: str | None


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    failed_at: datetime
    error_code: str
    error: str


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Open while it was neither replayed nor discarded. Without inbox id: a refused request."""

    id: int
    source: str
    inbox_id: int | None
    event_id: str | None
    event_type: str | None
    error_code: str
    error: str
    attempts: int
    dead_at: datetime
    replayed_at: datetime | None
    discarded_at: datetime | None


class Erased(msgspec.Struct, frozen=True):
    """By whom, when and why the body was erased."""

    redacted_at: datetime
    operator: str
    reason: str


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator did with this event by its id."""

    at: datetime
    who: str
    action: str
    target: str
    reason: str | None


class Changed(msgspec.Struct, frozen=True):
    """A field of data.object before and now, as JSON; ``after`` is null where it is gone."""

    path: str
    before: str
    after: str | None


class EventProof(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored of one event.

    ``body`` is the beginning of it as text, null when it is not yours to see or was erased;
    ``body_complete`` tells whether it is all. ``changes`` are what previous_attributes tells.
    """

    event: Event
    signature_header: str | None
    receipts: list[Receipt]
    failures: list[Failure]
    dead_letters: list[DeadLetter]
    redaction: Erased | None
    actions: list[Acted]
    possible: list[Action]
    body: str | None
    body_complete: bool
    changes: list[Changed] | None


class OfObject(msgspec.Struct, frozen=True, kw_only=True):
    """An event of an object, and the topics that it is in."""

    event: Event
    topics: list[str]


class Timeline(msgspec.Struct, frozen=True):
    """The events of an object, the newest first."""

    object_id: str
    events: list[OfObject]
    next: int | None


class DeadLetters(msgspec.Struct, frozen=True):
    """Open ones, the newest first."""

    dead_letters: list[DeadLetter]
    next: int | None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, and why."""

    id: int
    at: datetime
    who: str
    action: str
    target: str
    reason: str | None
    details: dict[str, Any] | None


class Entries(msgspec.Struct, frozen=True):
    """The newest first."""

    entries: list[Entry]
    next: int | None


class Reason(msgspec.Struct, frozen=True):
    """Why an operator acts; kept in the operator log."""

    reason: str


def sees_bodies(desk: Desk, access: Access) -> bool:
    """Whether bodies are shown to whoever asks."""
    return access.may_change and not desk.hide_bodies


def proof_for(desk: Desk, access: Access, found: Proof) -> EventProof:
    """What is said of an event to whoever has this access."""
    is_seen = sees_bodies(desk, access) and found.redaction is None
    is_complete = len(found.body) == found.event["body_bytes"]
    return EventProof(
        event=_event(found.event),
        # It is proof of who sent it, and no help in sending anything: it holds for a few minutes.
        signature_header=found.signature_header,
        receipts=_all(found.receipts, Receipt),
        failures=_all(found.failures, Failure),
        dead_letters=_all(found.dead_letters, DeadLetter),
        redaction=None
        if found.redaction is None
        else Erased(found.redaction.redacted_at, found.redaction.operator, found.redaction.reason),
        actions=_all(found.actions, Acted),
        possible=_possible(found.event) if access.may_change else [],
        body=bodies.text_of(found.body) if is_seen else None,
        body_complete=is_complete,
        changes=[Changed(c.path, c.before, c.after) for c in bodies.changes(found.body)]
        if is_seen and is_complete
        else None,
    )


def of_events(found: Page) -> Events:
    """A page of a list."""
    return Events([_event(row) for row in found.rows], found.next)


def timeline_of(object_id: str, found: Page) -> Timeline:
    """A page of an object's events."""
    events = [OfObject(event=_event(row), topics=row["topics"]) for row in found.rows]
    return Timeline(object_id, events, found.next)


def entries_of(rows: list[dict[str, Any]], limit: int) -> Entries:
    """A page of the operator log; ``limit`` rows were asked for."""
    return Entries(_all(rows, Entry), _next(rows, limit))


def letters_of(rows: list[dict[str, Any]], limit: int) -> DeadLetters:
    """A page of dead letters; ``limit`` rows were asked for."""
    return DeadLetters(_all(rows, DeadLetter), _next(rows, limit))


def _possible(event: dict[str, Any]) -> list[Action]:
    return actions.possible(event["state"], is_usable=event["event_type"] is not None)


def _event(row: dict[str, Any]) -> Event:
    return msgspec.convert(row | {"body_sha256": row["body_sha256"].hex()}, Event)


def _all(rows: list[dict[str, Any]], struct: type[Any]) -> list[Any]:
    return [struct(**row) for row in rows]


def _next(rows: list[dict[str, Any]], limit: int) -> int | None:
    return int(rows[-1]["id"]) if len(rows) == limit else None
