"""What an audit has found: checks with counts, and every single violation."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from relay.store.seals import Head

CHECKS: Final = {
    "accounted": "every event waits, is dead, or has a receipt that says what became of it",
    "receipts": "the records of every delivery are numbered without a gap",
    "bodies": "the stored bytes have the SHA-256 that is stored beside them",
    "keys": "the inbox and the keys that keep events unique agree one to one",
    "orphans": "nothing points to an event that is not there",
    "seals": "every seal has the hash of what is in it and of the seal before it",
    "heads": "the heads that were noted elsewhere are in the chain",
    "rows": "the inbox holds what was sealed, and nothing else of that time",
    "partitions": "no partition with sealed rows is gone from the middle",
    "topics": "the topics and partitions that receipts name are there",
    "records": "where a receipt says so stands the record that the stored bytes give",
    "repeats": "records without a receipt say the same as those that have one",
}
"""The names are stable."""

KAFKA_CHECKS: Final = ("topics", "records", "repeats")


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a promise is broken, in words and by what it is about."""

    check: str
    error: str
    inbox_id: int | None = None
    event_id: str | None = None
    seal: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


class Check(msgspec.Struct, frozen=True):
    """One promise, how many things were looked at for it, and how many broke it."""

    name: str
    promise: str
    looked_at: int
    violations: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """``notes`` counts what could not be judged, and is no violation; ``head`` ends the chain."""

    audited_at: datetime
    source: str | None
    since: datetime | None
    head: Head | None
    checks: tuple[Check, ...]
    notes: dict[str, int]
    violations: tuple[Violation, ...]


class Findings:
    """Collects while the audit goes on."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.notes: dict[str, int] = {}
        self._looked_at: dict[str, int] = {}

    def look(self, check: str, count: int = 1) -> None:
        """So many things were looked at."""
        self._looked_at[check] = self._looked_at.get(check, 0) + count

    def note(self, name: str, count: int = 1) -> None:
        self.notes[name] = self.notes.get(name, 0) + count

    def add(self, violation: Violation) -> None:
        self.violations.append(violation)

    def checks(self) -> tuple[Check, ...]:
        """Those that were made, in the order of ``CHECKS``."""
        broken: dict[str, int] = {}
        for each in self.violations:
            broken[each.check] = broken.get(each.check, 0) + 1
        return tuple(
            Check(name, promise, self._looked_at.get(name, 0), broken.get(name, 0))
            for name, promise in CHECKS.items()
            if name in self._looked_at or name in broken
        )
