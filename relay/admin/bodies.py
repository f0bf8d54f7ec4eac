"""A body for people: indented, and what changed; every token stays as it was received."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from relay.core import tokens, value
from relay.core.errors import UnusableEvent

MOST_BYTES: Final = 256 * 1024
"""Of a body that a page shows; the rest is a download."""

_TOKEN: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]++', re.DOTALL)
_INDENT: Final = "  "
# Deeper ones would fill a page with blanks.
_DEEPEST: Final = 100


class Change(msgspec.Struct, frozen=True):
    """One field of ``data.object``, its path with dots; ``after`` is None where it is gone."""

    path: str
    before: str
    after: str | None


def text_of(body: bytes) -> str:
    """The body as text; backslash escapes stand for bytes that are none."""
    return body.decode("utf-8", "backslashreplace")


def pretty(body: bytes) -> str | None:
    """The body indented; None when it is no JSON, or nested too deeply to be read."""
    try:
        text = body.decode("utf-8")
        if not tokens.is_json(body) or tokens.deeper_than(body, _DEEPEST):
            return None
    except (UnicodeDecodeError, RecursionError):
        return None
    return "".join(_indented(text))


def _indented(text: str) -> Iterator[str]:
    depth, is_open = 0, False
    for mark in _TOKEN.findall(text):
        if mark in "}]":
            depth -= 1
            if not is_open:
                yield "\n" + _INDENT * depth
        elif is_open:
            yield "\n" + _INDENT * depth
        is_open = False
        yield mark
        if mark in "{[":
            depth, is_open = depth + 1, True
        elif mark == ",":
            yield "\n" + _INDENT * depth
        elif mark == ":":
            yield " "


def changes(body: bytes) -> list[Change]:
    """What ``previous_attributes`` says was before, beside what is now; none for other events."""
    try:
        if tokens.deeper_than(body, _DEEPEST):
            return []
        parts = value.read(body)
    except (UnusableEvent, ValueError, RecursionError):
        return []
    found: list[Change] = []
    pairs = [("", parts.previous_attributes, parts.object)]
    while pairs:
        path, before, after = pairs.pop()
        # Each is gone through once: to look for thousands of names in thousands took minutes.
        is_now = dict(_members(after))
        for name, old in _members(before):
            new = is_now.get(name)
            if old[:1] == b"{" and new is not None and new[:1] == b"{":
                pairs.append((f"{path}{name}.", old, new))
            else:
                found.append(
                    Change(path + name, text_of(old), None if new is None else text_of(new))
                )
    return sorted(found, key=lambda change: change.path)


def _members(text: bytes) -> Iterator[tuple[str, bytes]]:
    if text[:1] == b"{":
        for name, _, start, end in tokens.members(text, 0):
            yield name, text[start:end]
