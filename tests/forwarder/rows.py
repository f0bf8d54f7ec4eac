"""Rows, plans and reports for the pure parts of the forwarder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from relay.core.record import Record
from relay.core.source import SourceConfig
from relay.core.transform import StoredEvent
from relay.forwarder.outcome import Plan, Policy
from relay.kafka import Acknowledged, Failure
from relay.store.queue import QueueRow

AWAY = Failure("transient", "kafka_msg_timed_out", "timed out", 0)
REFUSED = Failure("refused", "kafka_topic_authorization_failed", "no")
TOO_LARGE = Failure("too_large", "kafka_msg_size_too_large", "too large", 0)
OWN = Failure("own", "kafka_invalid_record", "no record", 0)

POLICY = Policy(
    random=lambda: 0.5,
    max_attempts=3,
    backoff_base_seconds=1.0,
    backoff_cap_seconds=600.0,
    probe_seconds=60.0,
)


def row(number: int, key: int = 1, **changes: Any) -> QueueRow:
    """A queue row; rows of the same key share a lane."""
    fields: dict[str, Any] = {
        "source_id": 1,
        "lane": key % 64,
        "number": number,
        "inbox_id": number,
        "received_at": datetime(2026, 1, 1, tzinfo=UTC),
        "key_hash": key,
        "bytes": 100,
        "kind": 0,
        "attempts": 0,
        "crashes": 0,
        "alone": False,
        "replay_id": None,
    }
    return QueueRow(**(fields | changes))


def plan(
    number: int, *reports: Acknowledged | Failure | None, key: int = 1, **changes: Any
) -> Plan:
    """A plan with one record per report."""
    source: dict[str, Any] = {"source_id": 1, "public_id": "src_1", "name": "main"}
    settings = {name: changes.pop(name) for name in ("dlq", "dlq_topic") if name in changes}
    verdict = changes.pop("verdict", None)
    wait_seconds = changes.pop("wait_seconds", None)
    missing = changes.pop("missing", 0)
    record = Record("customer", b'{"id":"1"}', b"{}", (), "u")
    made = Plan(
        row(number, key, **changes),
        SourceConfig(**(source | settings)),
        StoredEvent(
            number, f"evt_{number}", "a.b", "a", "1", None, False, None, None, "webhook", b"{}"
        ),
        records=(record,) * (len(reports) + missing),
        verdict=verdict,
        wait_seconds=wait_seconds,
        reports=reports,
        handed=len(reports),
    )
    if verdict is not None:
        made.records = ()
    return made


def ack(offset: int = 0) -> Acknowledged:
    return Acknowledged(0, offset)
