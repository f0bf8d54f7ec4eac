"""What the checker of the rig adds to that of the acceptance tests can turn red, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.acceptance.checker import Posted
from tests.faults import checker
from tests.faults.checker import Attacked
from tests.faults.evidence import Proof, Record, Row

KEYS = (b'{"id":"cus_1"}', b'{"id":"cus_2"}')
TOPIC = "rig-acme-customer"


def row(number: int, **changes: Any) -> Row:
    made = Row(
        inbox_id=number,
        event_id=f"evt_{number}",
        sha256=b"body %d" % number,
        states=("delivered",),
        origin="webhook",
        skip_reason=None,
        error_code=None,
        object_id=f"cus_{number % 2 + 1}",
        received_at=float(number),
    )
    return msgspec.structs.replace(made, **changes)


def proof(number: int, **changes: Any) -> Proof:
    made = Proof(
        inbox_id=number,
        event_id=f"evt_{number}",
        place=(TOPIC, number % 2, number),
        key=KEYS[number % 2],
        produced_at=number + 0.7,
        kind="event",
    )
    return msgspec.structs.replace(made, **changes)


def record(number: int, **changes: Any) -> Record:
    made = Record(
        place=(TOPIC, number % 2, number),
        key=KEYS[number % 2],
        event_id=f"evt_{number}",
        sha256=b"value %d" % number,
        at=number + 0.6,
    )
    return msgspec.structs.replace(made, **changes)


def sound() -> Attacked:
    """Ten events, one of which was to become a dead letter, and a snapshot of two objects."""
    numbers = [n for n in range(10) if n != 7]
    listed = [
        row(20, event_id="snap_s1_cus_8", origin="snapshot", object_id="cus_8"),
        row(
            21,
            event_id="snap_s1_cus_9",
            origin="snapshot",
            object_id="cus_9",
            states=("skipped",),
            skip_reason="superseded",
        ),
    ]
    at = {"place": (TOPIC, 0, 20), "key": b'{"id":"cus_8"}', "event_id": "snap_s1_cus_8"}
    return Attacked(
        posted=[Posted(f"evt_{n}", KEYS[n % 2], b"body %d" % n, n, n + 0.5) for n in range(10)],
        rows=[
            *[row(n) for n in numbers],
            row(7, states=("dead",), error_code="too_large"),
            *listed,
        ],
        proofs=[*[proof(n) for n in numbers], proof(20, **at)],
        records=[*[record(n) for n in numbers], record(20, **at)],
        expected_dead={"evt_7": "too_large"},
        deleted_topics={},
        lost=set(),
        put_aside=set(),
        explained=[],
        late=[],
        snapshots={"s1": {"customer": {"cus_8", "cus_9"}}},
    )


Doctor = Callable[[Attacked], dict[str, Any]]


def _without(items: Any, event_id: str) -> list[Any]:
    return [item for item in items if item.event_id != event_id]


def _again(facts: Attacked, number: int, at: float) -> list[Record]:
    """A record stands in its topic once more, behind all others."""
    return [*facts.records, record(number, place=(TOPIC, number % 2, 90), at=at)]


RED: dict[str, tuple[Doctor, str]] = {
    "a row is lost": (
        lambda f: {"rows": _without(f.rows, "evt_3")},
        "evt_3 was answered 2xx and is not in the inbox",
    ),
    "a row is in no state": (
        lambda f: {"rows": [*_without(f.rows, "evt_3"), row(3, states=())]},
        "evt_3 is in no state",
    ),
    "an event died that should not have": (
        lambda f: {
            "rows": [*_without(f.rows, "evt_3"), row(3, states=("dead",), error_code="too_large")]
        },
        "evt_3 is dead (too_large)",
    ),
    "an event that should have died did not": (
        lambda f: {"rows": [*_without(f.rows, "evt_7"), row(7)]},
        "evt_7 is delivered (None) and has to be dead",
    ),
    "an event died of something else": (
        lambda f: {"expected_dead": {"evt_7": "crashed_worker"}},
        "evt_7 is dead (too_large) and has to be dead",
    ),
    "an event was skipped": (
        lambda f: {
            "rows": [*_without(f.rows, "evt_3"), row(3, states=("skipped",), skip_reason="x")]
        },
        "evt_3 is skipped",
    ),
    "a record is not where its receipt says": (
        lambda f: {"records": _without(f.records, "evt_3")},
        "evt_3: there is no record at",
    ),
    "a repeat without a fault": (
        lambda f: {"records": _again(f, 9, 30.0)},
        "repeats evt_9 and no fault explains it",
    ),
    "a repeat long after the fault": (
        lambda f: {"records": _again(f, 9, 30.0), "explained": [(1.0, 29.0)]},
        "repeats evt_9 and no fault explains it",
    ),
    "a repeat of other bytes": (
        lambda f: {
            "records": [*_again(f, 8, 30.0), record(9, place=(TOPIC, 1, 91), sha256=b"", at=30.0)],
            "explained": [(1.0, 31.0)],
        },
        "differs from",
    ),
    "the last repeat is out of order": (
        lambda f: {"records": _again(f, 1, 30.0), "explained": [(1.0, 31.0)]},
        "evt_9 stands before evt_1",
    ),
    "an object of a snapshot is missing": (
        lambda f: {
            "rows": _without(f.rows, "snap_s1_cus_9"),
        },
        "snapshot s1: 1 customer are not there once",
    ),
    "an object of a snapshot is there twice": (
        lambda f: {
            "rows": [
                *f.rows,
                row(30, event_id="snap_s1_cus_9", origin="snapshot", object_id="cus_9"),
            ],
            "proofs": [*f.proofs, proof(30, event_id="snap_s1_cus_9")],
        },
        "snapshot s1: 1 customer are not there once",
    ),
}


GREEN: dict[str, Doctor] = {
    "nothing": lambda f: {},
    "the last event repeated by a fault": lambda f: {
        "records": _again(f, 9, 30.0),
        "explained": [(29.0, 31.0)],
    },
    "the last event repeated because its batch was lost": lambda f: {
        "records": _again(f, 9, 30.0),
        "lost": {"evt_9"},
    },
    "the last event repeated because its key was put aside": lambda f: {
        "records": _again(f, 9, 30.0),
        "put_aside": {"evt_5"},
    },
    "an older one, late, of a frozen process": lambda f: {
        "records": _again(f, 1, 30.0),
        "explained": [(29.0, 31.0)],
        "late": [(29.5, 30.5)],
    },
    "a topic was deleted with all that was in it": lambda f: {
        "records": [each for each in f.records if each.at > 5.0],
        "deleted_topics": {TOPIC: 5.0},
    },
}


@pytest.mark.parametrize("doctor", GREEN.values(), ids=GREEN)
def test_what_a_fault_may_do_is_no_violation(doctor: Doctor) -> None:
    facts = sound()
    assert checker.check(msgspec.structs.replace(facts, **doctor(facts))) == []


@pytest.mark.parametrize(("doctor", "word"), RED.values(), ids=RED)
def test_a_broken_promise_is_told(doctor: Doctor, word: str) -> None:
    facts = sound()
    found = checker.check(msgspec.structs.replace(facts, **doctor(facts)))
    assert any(word in line for line in found), found


def test_a_topic_that_was_deleted_excuses_nothing_that_came_after() -> None:
    facts = sound()
    records = [each for each in facts.records if each.at > 5.0 and each.event_id != "evt_8"]
    found = checker.check(
        msgspec.structs.replace(facts, records=records, deleted_topics={TOPIC: 5.0})
    )
    assert any("evt_8: there is no record at" in line for line in found), found


def test_late_records_are_counted() -> None:
    facts = sound()
    late = msgspec.structs.replace(facts, records=_again(facts, 1, 30.0), late=[(29.5, 30.5)])
    assert [each.event_id for each in checker.late_records(late)] == ["evt_1"]
    assert checker.late_records(facts) == []


def test_the_window_is_measured() -> None:
    facts = sound()
    in_time = msgspec.structs.replace(facts, records=_again(facts, 9, 30.0), late=[(29.5, 30.5)])
    assert checker.overtaken_records(in_time) == []
    late = msgspec.structs.replace(facts, records=_again(facts, 1, 30.0), late=[(29.5, 30.5)])
    [one] = checker.overtaken_records(late)
    assert (one.record.event_id, one.seconds) == ("evt_1", 30.0 - 3.6)


def test_a_late_record_may_stand_where_one_of_a_deleted_topic_stood() -> None:
    facts = sound()
    changed = msgspec.structs.replace(
        facts,
        records=_again(facts, 1, 30.0),
        proofs=[*facts.proofs, proof(3, place=(TOPIC, 1, 90))],
        deleted_topics={TOPIC: 20.0},
        late=[(29.5, 30.5)],
    )
    assert "evt_1" in [each.event_id for each in checker.late_records(changed)]
