"""Repetitions, medians and the table."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

Run = Callable[[], Awaitable[float]]
RESULTS = Path(__file__).parent / "results"


async def interleave(
    contenders: Mapping[str, Run], repetitions: int, unit: str = "events/s"
) -> dict[str, list[float]]:
    """Run all contenders in turn, several times over, so that a noisy minute hits all of them."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    console = Console(stderr=True)
    for repetition in range(1, repetitions + 1):
        for name, run in contenders.items():
            figure = await run()
            figures[name].append(figure)
            console.print(f"  {repetition}/{repetitions} {name}: {figure:,.0f} {unit}")
    return figures


def report(
    title: str, figures: Mapping[str, list[float]], ours: str, unit: str = "events/s"
) -> None:
    """Print min/median/max and the ratios of ours to each; keep them as JSON.

    A ratio is of two runs of the same repetition, which a noisy minute hits alike.
    """
    table = Table(title=f"{title}, {unit} ({len(figures[ours])} interleaved runs)")
    table.add_column("")
    for column in ("min", "median", "max", f"{ours} / this"):
        table.add_column(column, justify="right")
    ratios = {name: _spread(_ratios(figures[ours], values)) for name, values in figures.items()}
    for name, values in figures.items():
        cells = [f"{value:,.0f}" for value in _spread(values)]
        low, median, high = ratios[name]
        table.add_row(name, *cells, f"{median:.2f} ({low:.2f} to {high:.2f})")
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    slug = title.split(":")[0].lower().replace(" ", "-")
    document = {
        "title": title,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "unit": unit,
        "figures": figures,
        "ratios": {
            name: dict(zip(("min", "median", "max"), spread, strict=True))
            for name, spread in ratios.items()
        },
    }
    (RESULTS / f"{slug}.json").write_text(json.dumps(document, indent=2) + "\n")


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)
