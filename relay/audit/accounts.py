"""Whether every event is accounted for. Pure: the rows of one page in, violations out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import msgspec

from relay.audit.report import Violation

SKIP_REASONS: Final = frozenset(
    {"unselected", "superseded", "livemode_mismatch", "discarded", "redacted"}
)

Row = Any
"""A row of a table, by the names of its columns."""


class Page(msgspec.Struct, frozen=True):
    """Rows of the inbox with all that speaks of them, by inbox id."""

    rows: Sequence[Row]
    queued: Mapping[int, int]
    dead: Mapping[int, int]
    receipts: Sequence[Row]
    keys: Mapping[int, Row]
    altered: Mapping[int, int]
    redacted: frozenset[tuple[int, datetime]]


def judge(page: Page) -> Iterator[Violation]:
    """What is wrong with the events of a page."""
    receipts: dict[int, list[Row]] = {row["id"]: [] for row in page.rows}
    for receipt in page.receipts:
        receipts[receipt["inbox_id"]].append(receipt)
    for row in page.rows:
        found = [
            *_accounted(page, row, receipts[row["id"]]),
            *_numbered(receipts[row["id"]]),
            *_same_bytes(page, row),
            *_keyed(page, row),
        ]
        for check, error in found:
            yield Violation(check=check, error=error, inbox_id=row["id"], event_id=row["event_id"])


def _accounted(page: Page, row: Row, receipts: Sequence[Row]) -> Iterator[tuple[str, str]]:
    queued, dead = page.queued.get(row["id"], 0), page.dead.get(row["id"], 0)
    settled = [receipt for receipt in receipts if receipt["kind"] == 0]
    if not queued and not dead and not settled:
        yield (
            "accounted",
            "lost: it does not wait, has no open dead letter and no receipt",
        )
    if queued > 1:
        yield "accounted", f"it stands in the line {queued} times"
    if dead > 1:
        yield "accounted", f"it has {dead} open dead letters"
    if queued and dead:
        yield "accounted", "it waits, and has an open dead letter as well"
    for receipt in settled:
        reason = receipt["skipped"]
        if reason is not None and reason not in SKIP_REASONS:
            yield "accounted", f"it was skipped for a reason that there is not: {reason}"


def _numbered(receipts: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Each line of the queue that was settled has the records 0 to n-1, or one skip."""
    ordered = sorted(receipts, key=lambda each: (each["number"], each["kind"], each["record"]))
    for (number, _), group in groupby(ordered, key=lambda each: (each["number"], each["kind"])):
        proofs = list(group)
        records = [each["record"] for each in proofs]
        if records != list(range(len(records))):
            yield (
                "receipts",
                f"the receipts of delivery {number} have the numbers {_shown(records)}",
            )
        if len(proofs) > 1 and any(each["skipped"] is not None for each in proofs):
            yield "receipts", f"delivery {number} is skipped and delivered at once"


def _same_bytes(page: Page, row: Row) -> Iterator[tuple[str, str]]:
    if row["id"] not in page.altered:
        return
    left = page.altered[row["id"]]
    if (row["id"], row["received_at"]) not in page.redacted:
        yield "bodies", f"its {left} bytes are not those of its SHA-256"
    elif left:
        yield "bodies", f"it was redacted, and has {left} bytes that were not received"


def _keyed(page: Page, row: Row) -> Iterator[tuple[str, str]]:
    key = page.keys.get(row["id"])
    if key is None:
        yield "keys", "no key keeps it from being stored twice"
    elif (key["inbox_id"], key["received_at"]) != (row["id"], row["received_at"]):
        yield "keys", f"its key points to the event {key['inbox_id']}, and not to it"


def _shown(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:10])
    return shown + (" …" if len(numbers) > 10 else "")
