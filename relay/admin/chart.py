"""The throughput as the lines of a chart, which the page draws as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from relay.admin.overview import CHART_SECONDS, SAMPLE_SECONDS, Rate

WIDTH: Final = 720
HEIGHT: Final = 160
_EDGE: Final = 2  # room for half of a line
# Samples further apart than this have a gap between them.
_GAP_SECONDS: Final = 3 * SAMPLE_SECONDS


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Paths in a picture of ``WIDTH`` times ``HEIGHT``; ``most`` is what its upper line means."""

    received: str
    sent: str
    most: float
    last: Rate | None


def draw(rates: Sequence[Rate], now: datetime) -> Chart:
    """The last hour, which ends at the right edge."""
    values = [v for rate in rates for v in (rate.received, rate.sent) if v is not None]
    most = _round_up(max(values, default=1.0))
    return Chart(
        received=_path([(r.at, r.received) for r in rates], now, most),
        sent=_path([(r.at, r.sent) for r in rates], now, most),
        most=most,
        last=rates[-1] if rates else None,
    )


def _path(points: Sequence[tuple[datetime, float | None]], now: datetime, most: float) -> str:
    """A line that is interrupted where nothing is known."""
    commands = []
    before: datetime | None = None
    for at, value in points:
        if value is None:
            before = None
            continue
        is_gap = before is None or (at - before).total_seconds() > _GAP_SECONDS
        age = (now - at).total_seconds()
        x = WIDTH * (1 - min(max(age / CHART_SECONDS, 0), 1))
        y = _EDGE + (HEIGHT - 2 * _EDGE) * (1 - min(value / most, 1))
        commands.append(f"{'M' if is_gap else 'L'}{x:.1f} {y:.1f}")
        if is_gap:
            commands.append("h0.1")  # a point of its own is seen, too
        before = at
    return " ".join(commands)


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 with zeros."""
    most = 1.0
    while most < value:
        for factor in (2, 2.5, 2):
            most *= factor
            if most >= value:
                break
    return most
