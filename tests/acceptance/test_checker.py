"""The checker can fail: each promise, broken on paper, turns it red."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acceptance import checker
from tests.acceptance.checker import Facts, Faults, InboxRow, KafkaRecord, Posted, Receipt

T = TypeVar("T", bound=msgspec.Struct)

KEYS = (b'{"id":"cus_1"}', b'{"id":"cus_2"}')


def sound() -> Facts:
    """Twelve events of two objects, sent one after the other; evt_4 was repeated after a kill."""
    numbers = range(12)
    names = [f"evt_{n}" for n in numbers]
    # Offset 2 of partition 0 holds what the killed process had sent.
    places = [("customer", n % 2, n // 2 + (n >= 4)) for n in numbers]
    records = [KafkaRecord(places[n], KEYS[n % 2], names[n], b"value %d" % n) for n in numbers]
    return Facts(
        posted=[Posted(names[n], KEYS[n % 2], b"body %d" % n, n, n + 0.5) for n in numbers],
        inbox=[InboxRow(n, names[n], b"body %d" % n, ("delivered",)) for n in numbers],
        receipts=[Receipt(n, names[n], places[n], KEYS[n % 2]) for n in numbers],
        records=[*records, KafkaRecord(("customer", 0, 2), KEYS[0], "evt_4", b"value 4")],
        faults=Faults(lost=frozenset(["evt_4"])),
    )


def edit(items: Sequence[T], at: int, **changes: Any) -> list[T]:
    """A copy with one item changed."""
    return [
        msgspec.structs.replace(item, **changes) if n == at else item
        for n, item in enumerate(items)
    ]


def without(items: Sequence[T], at: int) -> list[T]:
    """A copy with one item less."""
    return [item for n, item in enumerate(items) if n != at]


def exchanged(facts: Facts, a: int, b: int) -> Facts:
    """Two events at each other's place in Kafka, their receipts too: a swap that nobody noticed."""
    records, receipts = facts.records, facts.receipts
    first, second = records[a].place, records[b].place
    return msgspec.structs.replace(
        facts,
        records=edit(edit(records, a, place=second), b, place=first),
        receipts=edit(edit(receipts, a, place=second), b, place=first),
    )


# What is done to the sound facts, and a word of each violation that has to follow.
DOCTORED: dict[str, tuple[Callable[[Facts], dict[str, Any]], list[str]]] = {
    "an id is lost": (
        lambda f: {
            "inbox": without(f.inbox, 3),
            "receipts": without(f.receipts, 3),
            "records": without(f.records, 3),
        },
        ["evt_3 was answered 2xx and is not in the inbox"],
    ),
    "a byte is changed": (
        lambda f: {"inbox": edit(f.inbox, 5, sha256=b"body 6")},
        ["evt_5 is stored with other bytes than were sent"],
    ),
    "an event is stored twice": (
        lambda f: {"inbox": [*f.inbox, msgspec.structs.replace(f.inbox[5], inbox_id=99)]},
        ["evt_5 is in the inbox 2 times", "evt_5 has 0 receipts"],
    ),
    "an event is invented": (
        lambda f: {"posted": without(f.posted, 5)},
        ["evt_5 is in the inbox and nobody sent it"],
    ),
    "an event waits for ever": (
        lambda f: {"inbox": edit(f.inbox, 5, states=("pending",))},
        ["evt_5 is pending"],
    ),
    "an event is in no state": (
        lambda f: {"inbox": edit(f.inbox, 5, states=())},
        ["evt_5 is in no state"],
    ),
    "an event is in two states": (
        lambda f: {"inbox": edit(f.inbox, 5, states=("delivered", "dead"))},
        ["evt_5 is delivered and dead"],
    ),
    "a receipt is missing": (
        lambda f: {"receipts": without(f.receipts, 5)},
        ["evt_5 has 0 receipts", "of evt_5 has no receipt", "repeats evt_5 and no fault"],
    ),
    "two receipts for one record": (
        lambda f: {"receipts": [*f.receipts, f.receipts[5]]},
        ["evt_5 has 2 receipts", "2 receipts name ('customer', 1, 3)"],
    ),
    "a receipt without its record": (
        lambda f: {"records": without(f.records, 5)},
        ["evt_5: there is no record at ('customer', 1, 3)"],
    ),
    "a receipt that names another offset": (
        lambda f: {"receipts": edit(f.receipts, 5, place=("customer", 1, 77))},
        [
            "evt_5: there is no record at ('customer', 1, 77)",
            "('customer', 1, 3) of evt_5 has no receipt",
            "('customer', 1, 3) repeats evt_5 and no fault",
        ],
    ),
    "another event at the place of a receipt": (
        lambda f: {"records": edit(f.records, 5, event_id="evt_7")},
        ["evt_5: evt_7 stands at ('customer', 1, 3)"],
    ),
    "another key at the place of a receipt": (
        lambda f: {"records": edit(f.records, 5, key=KEYS[0])},
        ["evt_5: another key stands at", "is in the partitions [0, 1]"],
    ),
    "a repeat without a fault": (
        lambda f: {"faults": Faults()},
        ["('customer', 0, 2) repeats evt_4 and no fault explains it"],
    ),
    "a repeat with another value": (
        lambda f: {"records": edit(f.records, 12, sha256=b"value 5")},
        ["('customer', 0, 2) differs from ('customer', 0, 3) of evt_4"],
    ),
    "a record of an event that nobody knows": (
        lambda f: {
            "records": [*f.records, KafkaRecord(("customer", 0, 90), KEYS[0], "evt_x", b"?")]
        },
        [
            "('customer', 0, 90) is of evt_x, which is not in the inbox",
            "('customer', 0, 90) of evt_x has no receipt",
            "('customer', 0, 90) repeats evt_x and no fault",
        ],
    ),
    "an old record comes late": (
        # The killed process's record of evt_4 arrives after its followers: the last one counts.
        lambda f: {"records": edit(f.records, 12, place=("customer", 0, 50))},
        [
            "evt_6 stands before evt_4",
            "evt_8 stands before evt_4",
            "evt_10 stands before evt_4",
        ],
    ),
}


def test_sound_facts_pass() -> None:
    assert checker.check(sound()) == []
    assert checker.repeats(sound()) == 1


@pytest.mark.parametrize(("doctor", "expected"), DOCTORED.values(), ids=DOCTORED)
def test_doctored_facts_turn_it_red(
    doctor: Callable[[Facts], dict[str, Any]], expected: list[str]
) -> None:
    facts = sound()
    found = checker.check(msgspec.structs.replace(facts, **doctor(facts)))
    unexpected = [line for line in found if not any(words in line for words in expected)]
    missing = [words for words in expected if not any(words in line for line in found)]
    assert (unexpected, missing) == ([], [])


def test_a_swap_of_events_that_did_not_overlap_turns_it_red() -> None:
    found = checker.check(exchanged(sound(), 6, 8))
    assert len(found) == 1
    assert found[0].startswith("evt_8 stands before evt_6")


def test_a_swap_of_events_that_overlapped_is_allowed() -> None:
    facts = exchanged(sound(), 6, 8)
    overlapping = edit(facts.posted, 8, began=6.25)
    assert checker.check(msgspec.structs.replace(facts, posted=overlapping)) == []


def test_a_swap_across_objects_is_allowed() -> None:
    facts = sound()
    records = [
        msgspec.structs.replace(r, place=("customer", 0, 100 - n))
        for n, r in enumerate(facts.records)
        if r.key == KEYS[0]
    ]
    assert checker.order_is_kept(facts.posted, records) != [], "the same within one object is not"
    alternating = [msgspec.structs.replace(r, key=b"%d" % n) for n, r in enumerate(records)]
    assert checker.order_is_kept(facts.posted, alternating) == []


def test_what_was_never_answered_may_be_missing_or_not() -> None:
    facts = sound()
    unanswered = msgspec.structs.replace(facts, posted=edit(facts.posted, 11, answered=None))
    assert checker.check(unanswered) == []
    gone = msgspec.structs.replace(
        unanswered,
        inbox=without(facts.inbox, 11),
        receipts=without(facts.receipts, 11),
        records=without(facts.records, 11),
    )
    assert checker.check(gone) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(0, 6))),
        min_size=1,
        max_size=9,
    )
)
def test_the_order_of_all_pairs(spans: list[tuple[int, int | None]]) -> None:
    """One walk finds exactly the events that some later one should have preceded."""
    posted = [
        Posted(f"evt_{n}", KEYS[0], b"", began, None if took is None else began + took)
        for n, (began, took) in enumerate(spans)
    ]
    records = [
        KafkaRecord(("customer", 0, n), KEYS[0], event.event_id, b"")
        for n, event in enumerate(posted)
    ]
    late = {
        event.event_id
        for n, event in enumerate(posted)
        if any(b.answered is not None and b.answered < event.began for b in posted[n + 1 :])
    }
    found = checker.order_is_kept(posted, records)
    assert {line.partition(" ")[0] for line in found} == late
