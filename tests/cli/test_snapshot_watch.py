"""What `--watch` shows of a resource."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import click
from rich.console import Console

from relay.cli.snapshot_watch import Bars, facts

ERROR = "The provided key 'rk_test_***' does not have the required permissions for this endpoint."


def row(**members: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "resource": "customer",
        "state": "running",
        "objects": 12_000,
        "pages": 120,
        "requests": 150,
        "limited": 30,
        "read_seconds": 600.0,
        "unread_seconds": 1800.0,
        "waits_for": None,
        "held_up": False,
        "last_error": None,
    }
    return given | members


def test_objects_pages_rate_share_of_429_and_what_is_left() -> None:
    assert facts(row(), 200.0) == [
        "12,000 objects",
        "120 pages",
        "200/s",
        "20 % limited",
        "about 3m left",  # three times as much time as what 12,000 objects were in
    ]


def test_what_it_waits_for() -> None:
    assert facts(row(waits_for="its turn"), 0.0)[-1] == "waits: its turn"
    assert facts(row(held_up=True), 0.0)[-1] == "waits: the forwarders have to catch up"


def test_what_is_not_known_is_not_guessed() -> None:
    without_time = row(limited=0, read_seconds=None, unread_seconds=None)
    assert facts(without_time, 200.0) == ["12,000 objects", "120 pages", "200/s"]
    assert facts(row(limited=0, read_seconds=0.0), 0.0)[-1] == "0/s"


def test_an_error_is_shown_where_it_was_the_end() -> None:
    assert facts(row(state="failed", last_error=ERROR), 0.0)[2:] == ["failed", ERROR]
    assert facts(row(state="finished", last_error="HTTP 503"), 0.0)[2:] == ["finished"]


def test_a_long_text_takes_no_room_from_names_and_bars() -> None:
    written = StringIO()
    with Bars(Console(file=written, width=80, force_terminal=True)) as bars:
        bars.update(
            [
                row(resource="subscription_schedule", state="failed", last_error=ERROR),
                row(),
                row(resource="invoice", state="finished"),
            ]
        )
    lines = [line for line in re.split(r"[\r\n]+", click.unstyle(written.getvalue())) if line]
    failed, running, _ = lines[-3:]
    a_quarter = "━━━━━╺━━━━━━━━━━━━━━"
    assert failed.startswith(f"subscription_schedule {a_quarter} 12,000 objects")
    assert failed.rstrip().endswith("…")
    assert running.startswith(f"customer              {a_quarter} 12,000 objects")
    assert all(len(line) <= 80 for line in lines)
