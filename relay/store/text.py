"""Text that PostgreSQL can hold, of whatever an error has to say."""

from __future__ import annotations

from typing import Final

MAX_ERROR_CHARACTERS: Final = 4000


def storable(error: str) -> str:
    """An error message without NUL and lone surrogates, which PostgreSQL refuses, and bounded."""
    if len(error) > MAX_ERROR_CHARACTERS:
        error = error[: MAX_ERROR_CHARACTERS - 1] + "…"
    return error.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold the text, or look for it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
