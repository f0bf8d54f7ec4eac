"""Whether relay kept its promises: facts from outside in, violations out. Pure.

The facts come from the clients that posted, from PostgreSQL and from Kafka, read with plain
drivers. Each function looks at one promise and says in words where it was broken; an empty list
means that it was kept. `test_checker.py` shows that each of them can turn red.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

Place = tuple[str, int, int]
"""Topic, partition and offset."""


class Posted(msgspec.Struct, frozen=True):
    """One event as its sender knows it; times are seconds of one monotonic clock.

    ``began`` is when its first request was sent, ``answered`` when a 2xx had arrived (after how
    many requests ever), None when none did.
    """

    event_id: str
    key: bytes
    sha256: bytes
    began: float
    answered: float | None


class InboxRow(msgspec.Struct, frozen=True):
    """A row of the inbox. ``sha256`` is that of the stored bytes, ``states`` all it is in."""

    inbox_id: int
    event_id: str
    sha256: bytes
    states: tuple[str, ...]


class Receipt(msgspec.Struct, frozen=True):
    """What PostgreSQL says about a delivered record."""

    inbox_id: int
    event_id: str
    place: Place
    key: bytes


class KafkaRecord(msgspec.Struct, frozen=True):
    """A record as it stands in its topic. ``event_id`` is the header `_event_id`."""

    place: Place
    key: bytes
    event_id: str
    sha256: bytes


class Faults(msgspec.Struct, frozen=True):
    """What may have been repeated, as seen while it happened.

    ``lost`` are the events of batches whose process was gone before it settled them; ``put_aside``
    are the keys with a record that Kafka did not acknowledge in time.
    """

    lost: frozenset[str] = frozenset()
    put_aside: frozenset[bytes] = frozenset()


class Facts(msgspec.Struct, frozen=True):
    posted: Sequence[Posted]
    inbox: Sequence[InboxRow]
    receipts: Sequence[Receipt]
    records: Sequence[KafkaRecord]
    faults: Faults = Faults()


def check(facts: Facts) -> list[str]:
    """Every promise; the violations of all of them."""
    return [
        *accepted_is_stored(facts.posted, facts.inbox),
        *stored_is_delivered(facts.inbox, facts.receipts),
        *receipts_are_true(facts.receipts, facts.records),
        *repeats_are_explained(facts.inbox, facts.receipts, facts.records, facts.faults),
        *order_is_kept(facts.posted, facts.records),
    ]


def accepted_is_stored(posted: Iterable[Posted], inbox: Iterable[InboxRow]) -> list[str]:
    """2xx means that exactly these bytes are in the inbox, once; and nothing else is there."""
    rows: dict[str, list[InboxRow]] = defaultdict(list)
    for row in inbox:
        rows[row.event_id].append(row)
    found = []
    known = set()
    for event in posted:
        known.add(event.event_id)
        stored = rows.get(event.event_id, [])
        if not stored and event.answered is not None:
            found.append(f"{event.event_id} was answered 2xx and is not in the inbox")
        if len(stored) > 1:
            found.append(f"{event.event_id} is in the inbox {len(stored)} times")
        if any(row.sha256 != event.sha256 for row in stored):
            found.append(f"{event.event_id} is stored with other bytes than were sent")
    found += [f"{event_id} is in the inbox and nobody sent it" for event_id in rows.keys() - known]
    return found


def stored_is_delivered(inbox: Iterable[InboxRow], receipts: Iterable[Receipt]) -> list[str]:
    """Every row is in exactly one state, which is `delivered`, with one receipt to show for it."""
    proofs = Counter(receipt.inbox_id for receipt in receipts)
    found = []
    for row in inbox:
        if row.states != ("delivered",):
            found.append(f"{row.event_id} is {' and '.join(row.states) or 'in no state'}")
        if proofs[row.inbox_id] != 1:
            found.append(f"{row.event_id} has {proofs[row.inbox_id]} receipts")
    return found


def receipts_are_true(receipts: Sequence[Receipt], records: Iterable[KafkaRecord]) -> list[str]:
    """At the place that a receipt names stands the record that it speaks of."""
    at = {record.place: record for record in records}
    found = []
    for receipt in receipts:
        record = at.get(receipt.place)
        if record is None:
            found.append(f"{receipt.event_id}: there is no record at {receipt.place}")
        elif record.event_id != receipt.event_id:
            found.append(f"{receipt.event_id}: {record.event_id} stands at {receipt.place}")
        elif record.key != receipt.key:
            found.append(f"{receipt.event_id}: another key stands at {receipt.place}")
    shared = Counter(receipt.place for receipt in receipts)
    found += [f"{n} receipts name {place}" for place, n in shared.items() if n > 1]
    return found


def repeats_are_explained(
    inbox: Iterable[InboxRow],
    receipts: Iterable[Receipt],
    records: Sequence[KafkaRecord],
    faults: Faults,
) -> list[str]:
    """A record without a receipt repeats, byte for byte, one that a fault may have repeated."""
    names = {row.event_id for row in inbox}
    proven = {receipt.place for receipt in receipts}
    originals = {record.event_id: record for record in records if record.place in proven}
    found = []
    for record in records:
        if record.event_id not in names:
            found.append(f"{record.place} is of {record.event_id}, which is not in the inbox")
        if record.place in proven:
            continue
        original = originals.get(record.event_id)
        if original is None:
            found.append(f"{record.place} of {record.event_id} has no receipt, nor another record")
        elif (record.key, record.sha256) != (original.key, original.sha256):
            found.append(f"{record.place} differs from {original.place} of {record.event_id}")
        if record.event_id not in faults.lost and record.key not in faults.put_aside:
            found.append(f"{record.place} repeats {record.event_id} and no fault explains it")
    return found


def repeats(facts: Facts) -> int:
    """How many records have no receipt."""
    proven = {receipt.place for receipt in facts.receipts}
    return sum(record.place not in proven for record in facts.records)


def order_is_kept(posted: Iterable[Posted], records: Sequence[KafkaRecord]) -> list[str]:
    """If a was answered before b was sent, the last record of a stands before that of b.

    For every pair of events with one key in one topic; and a key stays in one partition, without
    which there would be no order to speak of.
    """
    sent = {event.event_id: event for event in posted}
    found = []
    for (topic, key), line in _lines(records).items():
        partitions = {record.place[1] for record in line.values()}
        if len(partitions) > 1:
            found.append(f"{key!r} is in the partitions {sorted(partitions)} of {topic}")
            continue
        in_order = sorted(line.values(), key=lambda record: record.place)
        found += _swaps([sent[r.event_id] for r in in_order if r.event_id in sent])
    return found


def _lines(
    records: Iterable[KafkaRecord],
) -> Mapping[tuple[str, bytes], dict[str, KafkaRecord]]:
    """The last record of each event, by topic and key."""
    lines: dict[tuple[str, bytes], dict[str, KafkaRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: record.place):
        lines[record.place[0], record.key][record.event_id] = record
    return lines


def _swaps(line: Sequence[Posted]) -> list[str]:
    """From the end on, each event against the one behind it that was answered first."""
    found = []
    first: Posted | None = None
    for event in reversed(line):
        if first is not None and _answered(first) < event.began:
            found.append(
                f"{event.event_id} stands before {first.event_id}, which was answered"
                f" {event.began - _answered(first):.3f} s before it was sent"
            )
        if first is None or _answered(event) < _answered(first):
            first = event
    return found


def _answered(event: Posted) -> float:
    return float("inf") if event.answered is None else event.answered
