"""Which of the rows that were read go into the batch. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from relay.store.queue import QueueRow

_number = attrgetter("number")


def choose(
    rows: Sequence[QueueRow], lanes: Sequence[tuple[int, int]], max_rows: int, max_bytes: int
) -> list[QueueRow]:
    """The batch: a prefix of each lane, in the order of the line, and at least one row.

    A row that must be tried alone is a batch by itself: when it leads the first of ``lanes`` that
    has rows at all (they start at a random one), it is taken; else every lane ends before such a
    row.
    """
    by_lane: dict[tuple[int, int], list[QueueRow]] = {lane: [] for lane in lanes}
    for row in sorted(rows, key=_number):
        by_lane[row.source_id, row.lane].append(row)
    waiting = [of_lane for of_lane in by_lane.values() if of_lane]
    if not waiting:
        return []
    if waiting[0][0].alone:
        return [waiting[0][0]]
    together = sorted((row for of_lane in waiting for row in _until_alone(of_lane)), key=_number)
    batch: list[QueueRow] = []
    size = 0
    for row in together[:max_rows]:
        size += row.bytes
        if batch and size > max_bytes:
            break
        batch.append(row)
    return batch


def _until_alone(rows: Sequence[QueueRow]) -> Sequence[QueueRow]:
    for place, row in enumerate(rows):
        if row.alone:
            return rows[:place]
    return rows
