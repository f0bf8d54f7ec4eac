"""Waits grow to a cap, with full jitter."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.backoff import delay


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(0, 1), (1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (12, 600), (10**9, 600)],
)
def test_the_longest_wait_doubles_to_the_cap(attempt: int, longest: float) -> None:
    assert delay(attempt, 1.0) == longest
    assert delay(attempt, 0.5) == longest / 2
    assert delay(attempt, 0.0) == 0.0


def test_base_and_cap() -> None:
    assert delay(3, 1.0, base=0.25, cap=60.0) == 1.0
    assert delay(30, 1.0, base=0.25, cap=60.0) == 60.0


@given(st.integers(-5, 10**12), st.floats(0, 1, exclude_max=True))
def test_any_wait_is_sane(attempt: int, random: float) -> None:
    wait = delay(attempt, random)
    assert math.isfinite(wait)
    assert 0 <= wait < 600
