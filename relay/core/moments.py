"""Spans and moments as people write them: ``90s``, ``2h``, ``3d``; RFC 3339 or Unix seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# A hundred years: all time that matters, and what every clock can be moved by.
_LONGEST = 36_500 * 86400


def parse_span(text: str) -> timedelta | None:
    """``2h`` and the like; None when it is none."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip().lower())
    if match is None:
        return timedelta() if text.strip() == "0" else None
    return timedelta(seconds=min(int(match[1]) * _SECONDS[match[2]], _LONGEST))


def parse_moment(text: str) -> datetime | None:
    """RFC 3339 (UTC where it names no zone) or Unix seconds; None when it is neither."""
    try:
        if re.fullmatch(r"[0-9]{9,11}", text.strip()):
            return datetime.fromtimestamp(int(text), UTC)
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError, OSError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
