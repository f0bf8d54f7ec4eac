"""Spans and moments as flags take them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from relay.cli.durations import span, span_or_moment
from relay.core.moments import parse_moment, parse_span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("3D", 259200),
        (" 1w ", 604800),
        ("0", 0),
        ("0h", 0),
    ],
)
def test_a_span(text: str, seconds: int) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "2", "-2h", "2 h", "1.5h", "2y", "٢h", "2h3m"])
def test_no_span(text: str) -> None:
    assert parse_span(text) is None
    with pytest.raises(click.BadParameter, match="write 90s, 30m, 2h or 3d"):
        span(text)


def test_a_span_beyond_all_time_is_cut() -> None:
    assert parse_span("999999999w") == timedelta(days=36_500)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T18:00:00Z",
        "2026-11-24T19:00:00+01:00",
        "2026-11-24 18:00:00",
        "1795543200",
    ],
)
def test_a_moment(text: str) -> None:
    assert parse_moment(text) == datetime(2026, 11, 24, 18, tzinfo=UTC)
    assert span_or_moment(text) == datetime(2026, 11, 24, 18, tzinfo=UTC)


def test_a_day_begins_at_midnight_utc() -> None:
    assert parse_moment("2026-11-24") == datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "99999999999999", "12"])
def test_no_moment(text: str) -> None:
    assert parse_moment(text) is None
    with pytest.raises(click.BadParameter, match="Unix seconds"):
        span_or_moment(text)


def test_how_long_ago_stays_a_span() -> None:
    assert span_or_moment("2h") == timedelta(hours=2)
    assert span_or_moment("0") == timedelta()
