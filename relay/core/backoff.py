"""When to try again."""

from __future__ import annotations

_MAX_DOUBLINGS = 60
"""Enough to reach any cap; `2.0 ** attempt` overflows a float beyond 1,023."""


def delay(attempt: int, random: float, base: float = 1.0, cap: float = 600.0) -> float:
    """Seconds to wait after the `attempt`-th failure (1 = the first), with full jitter.

    `random` is drawn by the caller from [0, 1). The wait is that share of
    `min(cap, base * 2 ** (attempt - 1))`: spreading over the whole interval is what keeps a
    thousand rows that failed together from coming back together.
    """
    doublings = min(max(attempt - 1, 0), _MAX_DOUBLINGS)
    return random * min(cap, base * 2.0**doublings)
