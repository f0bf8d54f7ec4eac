"""The seals: whether the chain holds, and whether the inbox is what was sealed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from relay.audit.report import Findings, Violation
from relay.core import seal
from relay.store import evidence
from relay.store.partitions import Partition
from relay.store.seals import Head

# An event is stored within seconds of the moment that it carries. So a row of an earlier time,
# which was not sealed with the rows of its time, was not stored then.
_LATE = timedelta(hours=1)
_LATE_DAYS = timedelta(days=1)


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain says: its end, the rows per day, and which seals came when it was too late.

    Of this cluster the transactions before ``until`` are sealed; None while that cannot be said.
    ``newest`` is when the last sealed rows were received.
    """

    head: Head | None
    days: dict[date, int]
    late: frozenset[int]
    until: int | None
    newest: datetime | None


async def follow(pg: asyncpg.Connection, expected: Sequence[Head], findings: Findings) -> Chain:
    """Recompute every seal from its leaves and the seal before it."""
    sought = {head.number: head for head in expected}
    days: Counter[date] = Counter()
    late: set[int] = set()
    newest_day = date.min
    last = root = None
    async for row in evidence.seals(pg):
        root = root or row
        findings.look("seals")
        for error in _broken(row, last):
            findings.add(Violation(check="seals", error=error, seal=row["number"]))
        if row["number"] in sought:
            _compare(sought.pop(row["number"]), row["sha256"], findings)
        if row["count"]:
            days[row["day"]] += row["count"]
            if not row["walk"]:
                if row["day"] + _LATE_DAYS < newest_day:
                    late.add(row["number"])
                newest_day = max(newest_day, row["day"])
        last = {name: row[name] for name in _KEPT}
    for head in sought.values():
        _missing(head, root, findings)
    goes_on = last is not None and last["cluster"] == await evidence.cluster(pg)
    is_between = last is None or (last["resume_xact"] is not None)
    return Chain(
        head=None if last is None else Head(last["number"], last["sha256"]),
        days=dict(days),
        late=frozenset(late),
        until=last["xact_until"] if last and goes_on and not is_between else None,
        newest=await evidence.newest_sealed(pg) if goes_on and not is_between else None,
    )


_KEPT = ("number", "sha256", "cluster", "xact_until", "resume_xact")


def _broken(row: Any, last: Any) -> list[str]:
    found = []
    if last is None:
        if row["number"] == 1 and row["previous"] != seal.GENESIS:
            found.append("it is the first seal, and chained to another one")
    elif row["number"] != last["number"] + 1:
        found.append(f"seals are missing before it: the one before is {last['number']}")
    elif row["previous"] != last["sha256"]:
        found.append(f"it is not chained to seal {last['number']} as that is now")
    made = seal.seal(row["previous"], row["number"], row["day"], row["leaves"])
    if made != row["sha256"]:
        found.append("its hash is not that of what is in it")
    ends = (min(row["ids"], default=None), max(row["ids"], default=None))
    if ends != (row["first_id"], row["last_id"]):
        found.append("its ids are not between its first and its last one")
    return found


def _compare(expected: Head, digest: bytes, findings: Findings) -> None:
    findings.look("heads")
    if digest != expected.sha256:
        error = f"its hash is {digest.hex()}, and was noted as {expected.sha256.hex()}"
        findings.add(Violation(check="heads", error=error, seal=expected.number))


def _missing(expected: Head, root: Any, findings: Findings) -> None:
    """A head that is not among the kept seals."""
    if root is not None and expected.number == root["number"] - 1:
        _compare(expected, root["previous"], findings)
    elif root is not None and expected.number < root["number"]:
        findings.note("heads_before_the_first_seal")
    else:
        findings.look("heads")
        error = "it was noted, and the chain ends before it"
        findings.add(Violation(check="heads", error=error, seal=expected.number))


async def look_for_partitions(
    pg: asyncpg.Connection,
    chain: Chain,
    kept: Sequence[Partition],
    leaving: Sequence[Partition],
    findings: Findings,
) -> None:
    """Sealed days of which there is no partition any more.

    The retention takes the oldest, and leaves out what something unfinished holds; what it has
    taken, it has written down.
    """
    bounds = [(each.lower, each.upper) for each in kept]
    gone = sorted(day for day in chain.days if not evidence.is_kept(day, bounds))
    there = min((day for day in chain.days if evidence.is_kept(day, bounds)), default=date.max)
    told = [(each.lower, each.upper) for each in leaving] + await evidence.drops(pg)
    findings.look("partitions", len(chain.days))
    for day in gone:
        if evidence.is_kept(day, told):
            findings.note("days_dropped_by_the_retention")
        elif day < there:
            findings.note("days_before_the_first_partition")
        else:
            error = (
                f"the partition of {day} with {chain.days[day]} sealed rows is gone, and rows"
                f" of {there} are still there"
            )
            findings.add(Violation(check="partitions", error=error))


class SealedRows:
    """Goes through the seals beside the inbox, both in the order of ids.

    What of a seal was not seen yet stays in memory: seals overlap little, and little was removed.
    """

    def __init__(
        self,
        pg: asyncpg.Connection,
        chain: Chain,
        kept: Sequence[Partition],
        since: datetime,
        findings: Findings,
    ) -> None:
        self._chain = chain
        self._kept = [(each.lower, each.upper) for each in kept]
        self._findings = findings
        self._seals = self._of_kept_days(evidence.seals_by_id(pg, seal.day_of(since)))
        self._next: Any = None
        self._is_at_end = False
        self._waiting: dict[int, tuple[int, bytes]] = {}

    async def _of_kept_days(self, rows: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for row in rows:
            if evidence.is_kept(row["day"], self._kept):
                yield row

    async def compare(self, page: Sequence[Any]) -> None:
        """With the next rows of the inbox."""
        await self._load(page[-1]["id"])
        for row in page:
            self._findings.look("rows")
            number, leaf = self._waiting.pop(row["id"], (None, b""))
            error = self._unsealed(row) if number is None else self._sealed(row, number, leaf)
            if error is not None:
                violation = Violation(
                    check="rows",
                    error=error,
                    inbox_id=row["id"],
                    event_id=row["event_id"],
                    seal=number,
                )
                self._findings.add(violation)

    async def finish(self) -> None:
        """What is left of the seals has no row."""
        await self._load(None)
        for inbox_id, (number, _) in sorted(self._waiting.items()):
            violation = Violation(
                check="rows",
                error="removed: it was sealed, and is not in the inbox",
                inbox_id=inbox_id,
                seal=number,
            )
            self._findings.add(violation)

    async def _load(self, last: int | None) -> None:
        """The seals that begin at or before an id; all of them without one."""
        while not self._is_at_end:
            if self._next is None:
                self._next = await anext(self._seals, None)
            if self._next is None:
                self._is_at_end = True
            elif last is not None and self._next["first_id"] > last:
                return
            else:
                self._take(self._next)
                self._next = None

    def _take(self, row: Any) -> None:
        for inbox_id, leaf in zip(row["ids"], seal.split(row["leaves"]), strict=True):
            if inbox_id in self._waiting:
                error = f"it is in seal {self._waiting[inbox_id][0]} as well"
                violation = Violation(
                    check="rows", error=error, inbox_id=inbox_id, seal=row["number"]
                )
                self._findings.add(violation)
            self._waiting[inbox_id] = (row["number"], leaf)

    def _sealed(self, row: Any, number: int, leaf: bytes) -> str | None:
        now = seal.leaf(row["id"], row["event_id"], row["received_at"], row["body_sha256"])
        if now != leaf:
            return "changed: its event id, received_at or body is not what was sealed"
        if number in self._chain.late:
            return "slipped in: it was sealed when rows of later days had been"
        return None

    def _unsealed(self, row: Any) -> str | None:
        until, newest = self._chain.until, self._chain.newest
        if (until is not None and row["xact_id"] < until) or (
            newest is not None and row["received_at"] < newest - _LATE
        ):
            return "slipped in: it is older than what is sealed, and in no seal"
        self._findings.note("rows_not_sealed_yet")
        return None
