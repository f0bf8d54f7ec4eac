"""Metric families: declared once with their name and text, filled with the values of a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Literal

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from relay.histogram import Histogram

Values = Iterable[tuple[tuple[str, ...], float | None]] | float | None
"""Pairs of label values and a figure; a figure alone has no labels. None is an unknown figure: it
is missing from the page, and never 0."""


class Family(msgspec.Struct, frozen=True):
    """A counter or a gauge. Prometheus adds ``_total`` to the name of a counter."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    labels: tuple[str, ...] = ()

    def filled(self, values: Values) -> Metric:
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = make(self.name, self.text, labels=self.labels)
        if isinstance(values, int | float):
            values = [((), values)]
        for labels, value in values or ():
            if value is not None:
                family.add_metric(labels, value)
        return family


class HistogramFamily(msgspec.Struct, frozen=True):
    """A histogram without labels."""

    name: str
    text: str

    def filled(self, observed: Histogram) -> Metric:
        """Its bounds are shown as people write them (``0.5``, ``10``)."""
        family = HistogramMetricFamily(self.name, self.text)
        bounds = [*(f"{bound:g}" for bound in observed.bounds), "+Inf"]
        counts = list(zip(bounds, accumulate(observed.counts), strict=True))
        family.add_metric((), counts, observed.sum)
        return family


def counter(name: str, text: str, *labels: str) -> Family:
    return Family("counter", name, text, labels)


def gauge(name: str, text: str, *labels: str) -> Family:
    return Family("gauge", name, text, labels)


def histogram(name: str, text: str) -> HistogramFamily:
    return HistogramFamily(name, text)


def from_zero(
    counted: Mapping[str, int], known: Iterable[str]
) -> list[tuple[tuple[str, ...], float | None]]:
    """One value per word, 0 for those that have not come up: a rate sees the first one too."""
    return [((word,), count) for word, count in (dict.fromkeys(known, 0) | dict(counted)).items()]
