"""What a check has found."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, Literal

import msgspec

Verdict = Literal["failed", "warning", "skipped", "ok"]
VERDICTS: Final[tuple[Verdict, ...]] = ("failed", "warning", "skipped", "ok")
"""The worst first."""

_LISTED: Final = 5


class Finding(msgspec.Struct, frozen=True):
    """How it stands and why. ``fix`` is what to do about it, None where there is nothing to do."""

    verdict: Verdict
    reason: str
    fix: str | None = None


class Result(msgspec.Struct, frozen=True):
    """A finding under the name of its check; the form of `relay doctor --json`."""

    name: str
    verdict: Verdict
    reason: str
    fix: str | None = None


def ok(reason: str) -> Finding:
    """All is well."""
    return Finding("ok", reason)


def warning(reason: str, fix: str) -> Finding:
    """It works, and it may hurt some day."""
    return Finding("warning", reason, fix)


def failed(reason: str, fix: str) -> Finding:
    """It does not work, or what is promised does not hold."""
    return Finding("failed", reason, fix)


def skipped(reason: str, fix: str | None = None) -> Finding:
    """It could not be looked at, or there is nothing to look at."""
    return Finding("skipped", reason, fix)


def listed(names: Collection[str]) -> str:
    """``a, b, c``; of many the first few and how many more."""
    shown = list(names)[:_LISTED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def overall(results: Iterable[Result]) -> Verdict:
    """The worst of them; what was skipped does not count."""
    found = {each.verdict for each in results} - {"skipped"}
    return next((verdict for verdict in VERDICTS if verdict in found), "ok")


def size(count: int) -> str:
    """A number of bytes as people say it."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"


def span(seconds: float) -> str:
    """A time as people say it."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.3g} seconds"
