"""Which rows make a batch."""

from __future__ import annotations

from relay.forwarder.claim import choose
from tests.forwarder.rows import row

MANY = 1_000_000


def numbers(*arguments: object) -> list[int]:
    return [each.number for each in choose(*arguments)]  # type: ignore[arg-type]


def test_a_prefix_of_each_lane_in_the_order_of_the_line() -> None:
    rows = [row(3, 1), row(8, 1), row(1, 2), row(9, 2)]
    assert numbers(rows, [(1, 1), (1, 2)], 3, MANY) == [1, 3, 8]


def test_bytes_bound_the_batch_but_one_row_always_fits() -> None:
    rows = [row(1, bytes=10), row(2, bytes=90), row(3, bytes=1), row(4, bytes=1)]
    lanes = [(1, 1)]
    assert numbers(rows, lanes, 10, 100) == [1, 2]
    assert numbers(rows, lanes, 10, 99) == [1], "and not 3, which stands behind 2"
    assert numbers(rows[1:], lanes, 10, 5) == [2]


def test_nothing_makes_no_batch() -> None:
    assert choose([], [(1, 1)], 10, MANY) == []


def test_a_row_that_must_be_alone_is_taken_when_it_leads_the_first_lane_with_rows() -> None:
    rows = [row(1, 2, alone=True), row(2, 2), row(3, 3)]
    assert numbers(rows, [(1, 1), (1, 2), (1, 3)], 10, MANY) == [1]


def test_other_lanes_end_before_a_row_that_must_be_alone() -> None:
    rows = [row(1, 2), row(2, 2, alone=True), row(3, 2), row(4, 3, alone=True), row(5, 4)]
    assert numbers(rows, [(1, 2), (1, 3), (1, 4)], 10, MANY) == [1, 5]
