"""Repetitions, medians, goals and the table."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.goals import GOALS

Run = Callable[[], Awaitable[float]]
RESULTS = Path(__file__).parent / "results"
_WIDTH = 165
_console = Console(stderr=True)
_table = Table(title="min, median and max of interleaved runs; goals are held against medians")
_has_figures = False
for _column in ("", "min", "median", "max", "ours / this", "goal", ""):
    _table.add_column(_column, justify="right" if _column else "left", no_wrap=True)


async def interleave(
    contenders: Mapping[str, Run], repetitions: int, unit: str = "events/s"
) -> dict[str, list[float]]:
    """Run all contenders in turn, several times over, so that a noisy minute hits all of them."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(1, repetitions + 1):
        for name, run in contenders.items():
            figure = await run()
            figures[name].append(figure)
            _console.print(f"  {repetition}/{repetitions} {name}: {_number(figure)} {unit}")
    return figures


def not_here(name: str, why: object) -> None:
    """Say that a peer is left out."""
    _console.print(f"  NOT HERE: {name}: {why}", markup=False)
    _table.add_row(name, "", "", "", "", "", "not here")


def report(
    title: str,
    figures: Mapping[str, Sequence[float]],
    ours: str,
    unit: str = "events/s",
) -> None:
    """Put min/median/max and the ratios of ours to each into the table; keep them as JSON.

    A ratio is of two runs of the same repetition, which a noisy minute hits alike.
    """
    global _has_figures
    _has_figures = True
    _table.add_section()
    _table.add_row(f"[bold]{title}, {unit}[/bold]")
    name_of_goals = title.split(":")[0]
    goals = GOALS.get(name_of_goals, ())
    told = []
    ratios = {name: _spread(_ratios(figures[ours], values)) for name, values in figures.items()}
    for name, values in figures.items():
        spread = _spread(values)
        low, median, high = map(_number, ratios[name])
        goal = next((g for g in goals if g.against == (None if name == ours else name)), None)
        verdict = ""
        if goal is not None:
            met = goal.is_met(spread[1] if name == ours else ratios[name][1])
            verdict = "met" if met else "[red]missed[/red]"
            told.append({**goal._asdict(), "met": met})
        _table.add_row(
            name,
            *map(_number, spread),
            "" if name == ours else f"{median} ({low} to {high})",
            "" if goal is None else f"{goal.sign} {_number(goal.bound)}",
            verdict,
        )
    keep(
        name_of_goals.lower().replace(",", "").replace(" ", "-"),
        {
            "title": title,
            "unit": unit,
            "figures": figures,
            "ratios": {
                name: dict(zip(("min", "median", "max"), spread, strict=True))
                for name, spread in ratios.items()
            },
            "goals": told,
        },
    )


def keep(name: str, document: Mapping[str, object]) -> None:
    """As JSON, with where and when."""
    RESULTS.mkdir(exist_ok=True)
    found = {
        "title": document["title"],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        **document,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


def say(text: str) -> None:
    """Something on the way."""
    _console.print(text, markup=False, highlight=False)


def print_table() -> None:
    """All that was reported, once."""
    if _has_figures:
        Console(width=_WIDTH).print(_table)


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
