"""Histograms: where an observation is counted, and how it is shown."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relay.histogram import Histogram
from relay.metrics.families import histogram
from relay.metrics.page import _Collected
from tests.metrics.scrape import Page


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (0, [1, 0, 0]),
        (0.5, [1, 0, 0]),
        (0.6, [0, 1, 0]),
        (2, [0, 1, 0]),
        (2.1, [0, 0, 1]),
    ],
)
def test_a_bound_belongs_to_what_is_below_it(value: float, counts: list[int]) -> None:
    observed = Histogram((0.5, 2))
    observed.observe(value)
    assert (observed.counts, observed.sum, observed.count) == (counts, value, 1)


def test_two_histograms_share_nothing() -> None:
    one, other = Histogram((1,)), Histogram((1,))
    one.observe(1)
    assert other.counts == [0, 0]


def test_the_page_adds_up_from_bound_to_bound() -> None:
    observed = Histogram((0.5, 2, 10))
    for value in (0.1, 1, 1, 5, 50):
        observed.observe(value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([histogram("relay_x_seconds", "Text.").filled(observed)]))
    page = Page(generate_latest(registry))
    buckets = page.all("relay_x_seconds_bucket", "le")
    assert buckets == {"0.5": 1, "2": 3, "10": 4, "+Inf": 5}
    assert page.get("relay_x_seconds_count") == 5
    assert page.get("relay_x_seconds_sum") == 57.1
