"""The page of all metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from prometheus_client import ProcessCollector

from relay.metrics import (
    database,
    figures,
    forwarder,
    kafka,
    receiver,
    snapshotter,
)
from relay.metrics import (
    page as of_page,
)
from relay.metrics.families import Family, HistogramFamily
from website.markdown import code, codes, table

_INTRO = """# Metrics by name

What `/metrics` shows, as the code declares it. [Metrics](../metrics.md) says how to scrape it, what each figure means for you
and when to worry.
"""
_PARTS: Mapping[str, tuple[ModuleType, ...]] = {
    "Receiver": (receiver,),
    "Forwarder": (forwarder,),
    "Kafka": (kafka,),
    "Snapshotter": (snapshotter,),
    "Database": (figures, database),
    "Process": (of_page,),
}


def page() -> str:
    parts = [_INTRO]
    for title, modules in _PARTS.items():
        rows = [row for module in modules for row in _rows(module)]
        if title == "Process":
            rows += _of_process()
        head = ("metric", "type", "labels", "what it is")
        parts.append(f"## {title}\n\n{table(head, rows)}")
    return "\n".join(parts)


def _rows(module: ModuleType) -> Iterator[tuple[str, str, str, str]]:
    for family in _declared(vars(module).values()):
        if isinstance(family, HistogramFamily):
            yield code(family.name), "histogram", "", family.text
        else:
            total = "_total" if family.kind == "counter" else ""
            yield code(family.name + total), family.kind, codes(family.labels), family.text


def _declared(values: Any) -> Iterator[Family | HistogramFamily]:
    """Families that stand by themselves, in tuples, or as the keys of tables."""
    for value in values:
        if isinstance(value, Family | HistogramFamily):
            yield value
        elif isinstance(value, tuple | Mapping):
            yield from _declared(value)


def _of_process() -> Iterator[tuple[str, str, str, str]]:
    for metric in ProcessCollector(registry=None).collect():
        total = "_total" if metric.type == "counter" else ""
        yield code(metric.name + total), metric.type, "", metric.documentation
