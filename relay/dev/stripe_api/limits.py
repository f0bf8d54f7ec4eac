"""Rate limits, and what came in: so that a test can prove that a limit was never exceeded."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

import msgspec

WINDOW_SECONDS = 1.0


class Limits(msgspec.Struct, frozen=True):
    """Requests in any one second; None for no limit. Stripe has 100 (live) or 25 for an account,
    and 25 for an endpoint."""

    account: int | None = None
    endpoint: int | None = None


class Traffic:
    """Every request that asked for a list, refused ones too."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.statuses: Counter[int] = Counter()
        """Answers by their HTTP status; 0 where there was none."""
        self._clock = clock
        self._arrivals: list[tuple[float, str, str]] = []
        self._accepted: dict[tuple[str, ...], deque[float]] = {}

    def admit(self, account: str, resource: str) -> str | None:
        """Counts a request; the reason when there are too many."""
        now = self._clock()
        self._arrivals.append((now, account, resource))
        bounds = (
            ("global-rate", (account,), self.limits.account),
            ("endpoint-rate", (account, resource), self.limits.endpoint),
        )
        windows = []
        for reason, key, limit in bounds:
            window = self._accepted.setdefault(key, deque())
            while window and window[0] <= now - WINDOW_SECONDS:
                window.popleft()
            if limit is not None and len(window) >= limit:
                return reason
            windows.append(window)
        for window in windows:
            window.append(now)
        return None

    def requests(self, resource: str | None = None) -> int:
        """How many came in all, or for one resource."""
        return sum(1 for _ in self._times(None, resource))

    def peak(self, account: str | None = None, resource: str | None = None) -> int:
        """The most requests that came within any second."""
        window: deque[float] = deque()
        most = 0
        for moment in self._times(account, resource):
            window.append(moment)
            while window[0] <= moment - WINDOW_SECONDS:
                window.popleft()
            most = max(most, len(window))
        return most

    def resources(self) -> list[str]:
        """Those that were asked for."""
        return sorted({resource for _, _, resource in self._arrivals})

    def _times(self, account: str | None, resource: str | None) -> Iterable[float]:
        return (
            moment
            for moment, one_account, one_resource in self._arrivals
            if account in (None, one_account) and resource in (None, one_resource)
        )
