"""Text that is fit to be shown: without secrets, and without power over the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

HIDDEN = "(hidden)"

# A key in a query string, a signing secret, a Stripe key, a signature header, a password in a URL
# or a connection string, a bearer token and an encryption key, each as far as it surely goes. Most
# have no word boundary in front: in an encoded URL a letter stands there (%3Fapi_key%3D).
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)(api_key(?:=|%3D))[^&\s\"'<>\\#]+"), rf"\1{HIDDEN}"),
    (re.compile(r"relay_[A-Za-z0-9_-]{43}"), f"relay_{HIDDEN}"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"([sr]k_(?:org_)?(?:live|test)_)[A-Za-z0-9_]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b(v[0-9]+=)[0-9A-Fa-f]{16,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(://[^\s:/@\"'<>?#]*:)[^\s/\"'<>?#]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)((?:ssl)?passw(?:or)?d=)(?:'[^']*'|[^&\s\"'<>\\#]+)"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}=(?![A-Za-z0-9_=-])"), HIDDEN),
)
# Shorter ones would be found everywhere by accident.
_SHORTEST_SECRET = 6


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """``text`` without anything that looks like a secret and without the given ``secrets``."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def printable(text: str, keep: str = "") -> str:
    """``text`` with control, direction and other invisible characters written as escapes.

    What others sent to us must not move a cursor, set a title or reorder a line. The characters in
    ``keep`` stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def moment(value: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """A span of time as people say it: ``45s``, ``12m``, ``3h 5m``, ``2d 4h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"
