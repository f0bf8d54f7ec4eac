"""Whether relay kept its promises under attack: facts in, violations out. Pure.

The promises about what is stored, delivered and in order are judged by `tests.acceptance.checker`;
here is what an attack adds: events that had to become dead letters, snapshots, topics that were
deleted, and the one window that remains by design.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from tests.acceptance import checker as promises
from tests.acceptance.checker import Posted
from tests.faults.evidence import Proof, Record, Row


class Attacked(msgspec.Struct, frozen=True, kw_only=True):
    """The facts; times are Unix seconds but for those of `posted`."""

    posted: Sequence[Posted]
    rows: Sequence[Row]
    proofs: Sequence[Proof]
    records: Sequence[Record]
    expected_dead: Mapping[str, str]
    """Events that had to become dead letters, with the code."""
    deleted_topics: Mapping[str, float]
    """When a topic was there again after it was deleted, with all that was in it."""
    lost: Collection[str]
    """Events of batches that were seen to be lost."""
    put_aside: Collection[str]
    """Events with a record that was seen not to be acknowledged."""
    explained: Sequence[tuple[float, float]]
    """When a fault that can repeat records was there, and its consequences were."""
    late: Sequence[tuple[float, float]]
    """When records of a frozen or cut-off forwarder may have come late (contract: the window)."""
    snapshots: Mapping[str, Mapping[str, Collection[str]]]
    """Of each that finished, the ids that Stripe listed, by resource."""


def check(facts: Attacked) -> list[str]:
    """The violations of all promises."""
    return [
        *accepted_is_stored(facts),
        *stored_is_settled(facts),
        *receipts_are_true(facts),
        *repeats_are_explained(facts),
        *order_is_kept(facts),
        *snapshots_are_complete(facts),
    ]


def accepted_is_stored(facts: Attacked) -> list[str]:
    received = [row for row in facts.rows if row.origin == "webhook"]
    return promises.accepted_is_stored(facts.posted, received)


def stored_is_settled(facts: Attacked) -> list[str]:
    """Exactly one state for every row, and the one that it has to be."""
    receipts = Counter(proof.inbox_id for proof in facts.proofs if proof.kind == "event")
    found = []
    for row in facts.rows:
        name = row.event_id
        if len(row.states) != 1:
            found.append(f"{name} is {' and '.join(row.states) or 'in no state'}")
            continue
        [state] = row.states
        if name in facts.expected_dead:
            if (state, row.error_code) != ("dead", facts.expected_dead[name]):
                found.append(f"{name} is {state} ({row.error_code}) and has to be dead")
        elif state == "skipped" and row.origin == "snapshot":
            if row.skip_reason != "superseded":
                found.append(f"{name} is skipped as {row.skip_reason}")
        elif state != "delivered":
            found.append(f"{name} is {state} ({row.error_code})")
        elif receipts[row.inbox_id] != 1:
            found.append(f"{name} has {receipts[row.inbox_id]} receipts")
    return found


def receipts_are_true(facts: Attacked) -> list[str]:
    """At the place of a receipt stands its record, unless its topic was deleted since."""
    kept = [proof for proof in facts.proofs if proof.kind == "event" and not _is_gone(facts, proof)]
    return promises.receipts_are_true(kept, facts.records)


def repeats_are_explained(facts: Attacked) -> list[str]:
    """A record without a receipt repeats one that has, byte for byte, and a fault tells why."""
    names = {row.event_id for row in facts.rows}
    places = {proof.place for proof in facts.proofs if not _is_gone(facts, proof)}
    originals = {record.event_id: record for record in facts.records if record.place in places}
    in_deleted = {proof.event_id for proof in facts.proofs if _is_gone(facts, proof)}
    expected = facts.expected_dead.keys()
    # What follows a record that was put aside is sent again after it.
    put_aside = {record.key for record in facts.records if record.event_id in facts.put_aside}
    found = []
    for record in facts.records:
        name = record.event_id
        if name not in names:
            found.append(f"{record.place} is of {name}, which is not in the inbox")
        if record.place in places or name in expected:
            continue
        original = originals.get(name)
        if original is None:
            if name not in in_deleted:
                found.append(f"{record.place} of {name} has no receipt, nor another record")
        elif (record.key, record.sha256) != (original.key, original.sha256):
            found.append(f"{record.place} differs from {original.place} of {name}")
        if name in facts.lost or record.key in put_aside:
            continue
        if not any(began <= record.at <= ended for began, ended in facts.explained):
            found.append(f"{record.place} repeats {name} and no fault explains it")
    return found


def late_records(facts: Attacked) -> list[Record]:
    """Without a receipt, and written when a frozen or cut-off forwarder had just come back."""
    places = {proof.place for proof in facts.proofs if not _is_gone(facts, proof)}
    return [
        record
        for record in facts.records
        if record.place not in places
        and any(began <= record.at <= ended for began, ended in facts.late)
    ]


class Overtaken(msgspec.Struct, frozen=True):
    """A record that came late, and how many seconds after the first newer one of its key."""

    record: Record
    seconds: float


def overtaken_records(facts: Attacked) -> list[Overtaken]:
    """Of the late ones, those behind a record of a newer event of their key: the window itself."""
    numbers = {row.event_id: row.inbox_id for row in facts.rows}
    late = {record.place for record in late_records(facts)}
    highest: dict[tuple[str, int, bytes], list[tuple[int, float]]] = defaultdict(list)
    found = []
    for record in sorted(facts.records, key=lambda record: record.place):
        number = numbers.get(record.event_id, -1)
        line = highest[*record.place[:2], record.key]
        newer = bisect_right(line, (number, math.inf))
        if newer == len(line):
            line.append((number, record.at))
        elif record.place in late:
            found.append(Overtaken(record, record.at - line[newer][1]))
    return found


def order_is_kept(facts: Attacked) -> list[str]:
    late = {record.place for record in late_records(facts)}
    in_time = [record for record in facts.records if record.place not in late]
    return promises.order_is_kept(facts.posted, in_time)


def snapshots_are_complete(facts: Attacked) -> list[str]:
    """Each one that finished has brought every object that Stripe has, exactly once."""
    brought: dict[str, Counter[str]] = defaultdict(Counter)
    for row in facts.rows:
        if row.origin == "snapshot":
            snapshot = row.event_id.split("_")[1]
            brought[snapshot][row.object_id or ""] += 1
    found = []
    for snapshot, listed in facts.snapshots.items():
        for resource, ids in listed.items():
            missing = [each for each in ids if brought[snapshot][each] != 1]
            if missing:
                found.append(f"snapshot {snapshot}: {len(missing)} {resource} are not there once")
    return found


def _is_gone(facts: Attacked, proof: Proof) -> bool:
    made_anew = facts.deleted_topics.get(proof.place[0])
    return made_anew is not None and proof.produced_at <= made_anew
