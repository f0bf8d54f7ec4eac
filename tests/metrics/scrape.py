"""A page of `/metrics` as Prometheus' own parser reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


class Page:
    """All families and samples of one scrape."""

    def __init__(self, text: bytes) -> None:
        self.text = text.decode()
        self.families: Mapping[str, Metric] = {
            _name(family): family for family in text_string_to_metric_families(self.text)
        }

    def get(self, sample: str, **labels: str) -> float | None:
        """The value of one sample, None when it is not there."""
        found = [value for name, of, value in self._samples() if (name, of) == (sample, labels)]
        assert len(found) < 2, f"{sample} {labels} is there {len(found)} times"
        return found[0] if found else None

    def all(self, sample: str, label: str) -> dict[str, float]:
        """The values of one sample by a label."""
        return {of[label]: value for name, of, value in self._samples() if name == sample}

    def labels(self, family: str) -> set[str]:
        """The names of the labels that its samples have."""
        return {label for each in self.families[family].samples for label in each.labels}

    def empty(self) -> set[str]:
        """The families without a sample."""
        return {name for name, family in self.families.items() if not family.samples}

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        for family in self.families.values():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value


def _name(family: Metric) -> str:
    """As it is written in the page and in queries: the parser takes the end of a counter off."""
    return f"{family.name}_total" if family.type == "counter" else str(family.name)
