"""A time-out that is moved often and strikes seldom."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Deadline:
    """Calls `expired` once when it is reached.

    Moving it away costs an assignment: the timer stays where it was, and finds out when it fires.
    """

    __slots__ = ("_at", "_expired", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    @property
    def is_set(self) -> bool:
        return self._at != math.inf

    def set(self, seconds: float) -> None:
        """So many seconds from now."""
        self._at = self._loop.time() + seconds
        if self._at < self._timer_at:
            self._arm()

    def clear(self) -> None:
        self._at = math.inf

    def close(self) -> None:
        """For good: the timer would keep what it calls alive."""
        self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() < self._at < math.inf:
            self._arm()
        elif self._at != math.inf:
            self._at = math.inf
            self._expired()
