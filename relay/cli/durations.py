"""Spans and moments as flags take them: ``90s``, ``2h``, ``3d``; RFC 3339 or Unix seconds."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from relay.core.moments import parse_moment, parse_span


def span(text: str) -> timedelta:
    """The type of a flag that is a span of time."""
    found = parse_span(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no span of time: write 90s, 30m, 2h or 3d")
    return found


def moment_of_flag(text: str) -> datetime:
    """The type of a flag that is a moment."""
    found = parse_moment(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time: write 2026-11-24T18:00:00Z or Unix seconds")
    return found


def span_or_moment(text: str) -> timedelta | datetime:
    """The type of a flag that tells how long ago, or when."""
    ago = parse_span(text)
    found = parse_moment(text) if ago is None else ago
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no time: write 2h or 3d (ago), 2026-11-24T18:00:00Z or Unix seconds"
        )
    return found
