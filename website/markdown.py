"""Pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def code(text: str) -> str:
    """Text as code within a line; nothing for nothing."""
    return f"`{text}`" if text else ""


def codes(words: Iterable[str]) -> str:
    return ", ".join(map(code, words))


def prose(text: str) -> str:
    """A docstring or a help text as a paragraph, its ``double`` ticks single, its <…> literal."""
    text = " ".join(text.split()).replace("``", "`")
    return re.sub(r"<(?=[a-z])(?=[^`]*(?:`[^`]*`[^`]*)*$)", "&lt;", text)


def block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
