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


async def interleave(contenders: Mapping[str, Run], repetitions: int) -> dict[str, list[float]]:
    """Run all contenders in turn, several times over, so that a noisy minute hits all of them."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    console = Console(stderr=True)
    for repetition in range(1, repetitions + 1):
        for name, run in contenders.items():
            figure = await run()
            figures[name].append(figure)
            console.print(f"  {repetition}/{repetitions} {name}: {figure:,.0f} events/s")
    return figures


def report(title: str, figures: Mapping[str, list[float]], ours: str) -> None:
    """Print min/median/max and the ratio of the medians to ours; keep them as JSON."""
    table = Table(title=f"{title}, events/s ({len(figures[ours])} interleaved runs)")
    table.add_column("")
    for column in ("min", "median", "max", f"{ours} / this"):
        table.add_column(column, justify="right")
    mine = statistics.median(figures[ours])
    for name, values in figures.items():
        median = statistics.median(values)
        cells = [f"{value:,.0f}" for value in (min(values), median, max(values))]
        table.add_row(name, *cells, f"{mine / median:.2f}")
    Console().print(table)
    RESULTS.mkdir(exist_ok=True)
    slug = title.split(":")[0].lower().replace(" ", "-")
    document = {
        "title": title,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "events_per_second": figures,
    }
    (RESULTS / f"{slug}.json").write_text(json.dumps(document, indent=2) + "\n")
