"""A histogram that costs whoever observes less than a microsecond, for whoever shows it."""

from __future__ import annotations

from bisect import bisect_left

import msgspec


class Histogram(msgspec.Struct):
    """How many observations were at or below each of ``bounds``, which ascend.

    ``counts`` has one more entry than ``bounds``: what was above all of them. They are not added
    up from bound to bound.
    """

    bounds: tuple[float, ...]
    counts: list[int] = []
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)
