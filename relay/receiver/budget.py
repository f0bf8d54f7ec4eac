"""How many bytes of bodies may be in the process at once."""

from __future__ import annotations

from typing import Final

REQUEST_BYTES: Final = 8192
"""What a request takes beside its body (head, task, row), about."""

_LARGE: Final = 262_144


class Budget:
    """Sheds by bytes and not by number: 200 uploads of 49 MB weigh more than 20,000 small ones.

    Large bodies share three quarters of it, so that a few slow ones cannot shut everybody out.
    `largest` is the largest body that may ever come: it always fits into an empty budget.
    """

    def __init__(self, total: int, largest: int) -> None:
        self.in_flight = 0
        self._for_large = max(total * 3 // 4, largest + REQUEST_BYTES)
        self.total = max(total, self._for_large + _LARGE)
        """What is in flight never exceeds this."""

    def take(self, held: int, wanted: int) -> bool:
        """Raises what one request holds from `held` to `wanted` bytes, when there is room."""
        in_flight = self.in_flight + wanted - held
        if in_flight > (self._for_large if wanted > _LARGE else self.total):
            return False
        self.in_flight = in_flight
        return True

    def give_back(self, held: int) -> None:
        self.in_flight -= held


class Lease:
    """The bytes that one request holds; released once, however the request ends."""

    __slots__ = ("_budget", "_held")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def cover(self, body_bytes: int) -> bool:
        """Makes room for a body of this size; False when there is none now."""
        wanted = body_bytes + REQUEST_BYTES
        if wanted <= self._held:
            return True
        if not self._budget.take(self._held, wanted):
            return False
        self._held = wanted
        return True

    def release(self) -> None:
        self._budget.give_back(self._held)
        self._held = 0
