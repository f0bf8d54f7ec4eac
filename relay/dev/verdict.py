"""Whether everything that was answered 2xx is accounted for. Pure: facts in, violations out.

One function per promise. Each says in words where the promise was broken; an empty list means that
it was kept, and `count` tells for how many things that was looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from relay.dev.backfill import Listed
from relay.dev.evidence import Evidence, Place, Receipt, Row, Standing
from relay.dev.sender import Sent


class Check(msgspec.Struct, frozen=True):
    """One promise, how often it was looked at, and where it was broken."""

    promise: str
    count: int
    violations: tuple[str, ...]


class Facts(msgspec.Struct, frozen=True):
    """What the sender knows beside what is there."""

    sent: Sequence[Sent]
    evidence: Evidence
    listed: Sequence[Listed] = ()

    @property
    def rows(self) -> dict[tuple[str, str], list[Row]]:
        """What came by webhook, by source and event id."""
        found: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in self.evidence.rows:
            if row.origin == "webhook":
                found[row.source, row.event_id].append(row)
        return found

    @property
    def read(self) -> dict[tuple[str, str | None], list[Row]]:
        """What a snapshot brought, by source and object id."""
        found: dict[tuple[str, str | None], list[Row]] = defaultdict(list)
        for row in self.evidence.rows:
            if row.origin == "snapshot":
                found[row.source, row.object_id].append(row)
        return found

    @property
    def at(self) -> dict[Place, Standing]:
        """Kafka, by topic, partition and offset."""
        return {standing.place: standing for standing in self.evidence.standing}


def check(facts: Facts) -> list[Check]:
    """All promises."""
    checks = []
    for promise, look in _PROMISES.items():
        count, violations = look(facts)
        checks.append(Check(promise, count, tuple(violations)))
    return checks


def repeats(evidence: Evidence) -> int:
    """Records without a receipt: Kafka had them already when they were sent again."""
    return len(evidence.standing) - len({receipt.place for receipt in evidence.receipts})


def _answered(facts: Facts) -> tuple[int, list[str]]:
    found = []
    for sent in facts.sent:
        expected = sent.expected
        for answer in sent.answers:
            told = f"{sent.event_id} was answered {answer.status or 'nothing'} {answer.content}"
            if expected.state == "refused":
                if (answer.status, answer.content.get("error")) != (400, expected.reason):
                    found.append(f"{told}, and not 400 {expected.reason}")
            elif not answer.accepted:
                found.append(told)
    return sum(len(sent.answers) for sent in facts.sent), found


def _stored(facts: Facts) -> tuple[int, list[str]]:
    found = []
    rows = facts.rows
    for sent in facts.sent:
        stored = rows.pop((sent.source, sent.event_id), [])
        wanted = 0 if sent.answered is None else 1
        if len(stored) < wanted:
            found.append(f"{sent.event_id} was answered 2xx and is not in the inbox")
        elif len(stored) > wanted:
            found.append(f"{sent.event_id} is in the inbox {len(stored)} times, not {wanted}")
        if any(row.sha256 != sent.sha256 for row in stored):
            found.append(f"{sent.event_id} is stored with other bytes than were sent")
    found += [f"{event_id} is in the inbox and nobody sent it" for _, event_id in rows]
    return sum(sent.answered is not None for sent in facts.sent), found


def _settled(facts: Facts) -> tuple[int, list[str]]:
    found = []
    rows = facts.rows
    accepted = [sent for sent in facts.sent if sent.answered is not None]
    for sent in accepted:
        expected = (sent.expected.state, sent.expected.reason)
        found += [
            f"{sent.event_id} is {row.state} ({row.reason}), not {expected[0]} ({expected[1]})"
            for row in rows.get((sent.source, sent.event_id), [])
            if (row.state, row.reason) != expected
        ]
    return len(accepted), found


def _delivered(facts: Facts) -> tuple[int, list[str]]:
    found = []
    at = facts.at
    receipts = _by_row(facts.evidence.receipts, dead_letters=False)
    rows = facts.rows
    for sent in facts.sent:
        for row in rows.get((sent.source, sent.event_id), []):
            proofs = receipts.get(row.inbox_id, [])
            wanted = sent.expected.contents
            if len(proofs) != len(wanted):
                found.append(f"{sent.event_id} has {len(proofs)} receipts, not {len(wanted)}")
            for receipt, content in zip(proofs, wanted, strict=False):
                found += _untrue(receipt, sent.event_id, content, at)
    shared = Counter(receipt.place for receipt in facts.evidence.receipts)
    found += [
        f"{count} receipts name {_name(place)}" for place, count in shared.items() if count > 1
    ]
    return sum(map(len, receipts.values())), found


def _dead_letters(facts: Facts) -> tuple[int, list[str]]:
    found = []
    at = facts.at
    receipts = _by_row(facts.evidence.receipts, dead_letters=True)
    rows = facts.rows
    copies = 0
    for sent in facts.sent:
        wanted = 1 if sent.expected.state == "dead" else 0
        for row in rows.get((sent.source, sent.event_id), []):
            proofs = receipts.get(row.inbox_id, [])
            copies += len(proofs)
            if len(proofs) != wanted:
                found.append(f"{sent.event_id} has {len(proofs)} dead letter copies, not {wanted}")
            for receipt in proofs:
                found += _untrue(receipt, sent.event_id, sent.sha256, at)
    return copies, found


def _once(facts: Facts) -> tuple[int, list[str]]:
    found = []
    for sent in facts.sent:
        fresh = sum(answer.accepted and not answer.duplicate for answer in sent.answers)
        if sent.answered is None or (sent.retried and fresh == 0):
            continue
        if fresh != 1:
            found.append(f"{sent.event_id} was taken for new {fresh} times")
    return sum(answer.duplicate for sent in facts.sent for answer in sent.answers), found


def _nothing_else(facts: Facts) -> tuple[int, list[str]]:
    """A record without a receipt is a repeat; one of an unknown event must not be there."""
    known = {sent.event_id for sent in facts.sent if sent.answered is not None}
    known |= {row.event_id for rows in facts.read.values() for row in rows}
    found = [
        f"{_name(standing.place)} is of {standing.event_id}, which was not accepted"
        for standing in facts.evidence.standing
        if standing.event_id not in known
    ]
    return len(facts.evidence.standing), found


def _listed(facts: Facts) -> tuple[int, list[str]]:
    """A snapshot's record, or a live event of the object that says more."""
    found = []
    at = facts.at
    receipts = _by_row(facts.evidence.receipts, dead_letters=False)
    read = facts.read
    for each in facts.listed:
        rows = read.pop((each.source, each.object_id), [])
        if len(rows) != 1:
            found.append(f"{each.object_id} was brought {len(rows)} times by the snapshot")
        for row in rows:
            if (row.state, row.reason) == ("skipped", "superseded"):
                continue
            if row.state != "delivered":
                found.append(f"{row.event_id} is {row.state} ({row.reason})")
            for receipt in receipts.get(row.inbox_id, [])[:1]:
                found += _untrue(receipt, row.event_id, each.content, at)
    found += [f"{object_id} was brought, and the API does not list it" for _, object_id in read]
    return len(facts.listed), found


def _order(facts: Facts) -> tuple[int, list[str]]:
    sent = {(each.source, each.event_id): each for each in facts.sent}
    events = {row.inbox_id: sent.get((row.source, row.event_id)) for row in facts.evidence.rows}
    lines: dict[tuple[str, bytes], dict[str, tuple[Place, Sent]]] = defaultdict(dict)
    for receipt in facts.evidence.receipts:
        event = events.get(receipt.inbox_id)
        if event is not None:
            # The last of an event's records of this key, which is its tombstone if it has one.
            line = lines[receipt.place[0], receipt.key]
            line[event.event_id] = (receipt.place, event)
    found = []
    for (topic, key), line in lines.items():
        partitions = {place[1] for place, _ in line.values()}
        if len(partitions) > 1:
            found.append(f"{key.decode()} is in {len(partitions)} partitions of {topic}")
        else:
            found += _swaps([event for _, event in sorted(line.values(), key=_by_place)])
    return sum(len(line) > 1 for line in lines.values()), found


def _swaps(line: Sequence[Sent]) -> list[str]:
    """From the end on, each event against the one behind it that was answered first."""
    found = []
    first: Sent | None = None
    for event in reversed(line):
        if first is not None and _moment(first) < event.began:
            found.append(
                f"{event.event_id} stands before {first.event_id}, which was answered"
                f" {event.began - _moment(first):.3f} s before it was sent"
            )
        if first is None or _moment(event) < _moment(first):
            first = event
    return found


def _untrue(
    receipt: Receipt, event_id: str, content: bytes | None, at: Mapping[Place, Standing]
) -> list[str]:
    """What is wrong with the record that a receipt speaks of."""
    place = _name(receipt.place)
    standing = at.get(receipt.place)
    if standing is None:
        return [f"{event_id}: there is no record at {place}"]
    found = []
    if standing.event_id != event_id:
        found.append(f"{event_id}: a record of {standing.event_id} stands at {place}")
    if standing.key != receipt.key:
        found.append(f"{event_id}: another key stands at {place}")
    if standing.content != content:
        found.append(f"{event_id}: the value at {place} is not what was sent")
    return found


def _by_row(receipts: Iterable[Receipt], *, dead_letters: bool) -> dict[int, list[Receipt]]:
    found: dict[int, list[Receipt]] = defaultdict(list)
    for receipt in receipts:
        if receipt.is_dead_letter is dead_letters:
            found[receipt.inbox_id].append(receipt)
    return found


def _by_place(line: tuple[Place, Sent]) -> Place:
    return line[0]


def _moment(event: Sent) -> float:
    return float("inf") if event.answered is None else event.answered


def _name(place: Place) -> str:
    topic, partition, offset = place
    return f"{topic}, partition {partition}, offset {offset}"


_PROMISES: Final[Mapping[str, Callable[[Facts], tuple[int, list[str]]]]] = {
    "requests were answered as the contract says": _answered,
    "events answered 2xx are in the inbox, each once, with the bytes that were sent": _stored,
    "events are delivered, or dead or skipped for the reason there is": _settled,
    "records stand in Kafka where their receipts say, with key, event id and object": _delivered,
    "dead letters have their copy on the dead letter topic": _dead_letters,
    "repeated requests were answered as duplicates and added nothing": _once,
    "objects that the Stripe API lists are in Kafka, or gave way to a newer live event": _listed,
    "records in Kafka are all of accepted events and listed objects": _nothing_else,
    "objects with several events have them in the order in which they were sent": _order,
}
