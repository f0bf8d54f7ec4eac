"""What stands in the pages of docs/: their blocks of code, and what a command was to print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"

_FENCE = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_HEREDOC = re.compile(r"<<'(\w+)'")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


class Block(NamedTuple):
    language: str
    title: str
    text: str


class Step(NamedTuple):
    """A command of a terminal, and what is shown below it."""

    command: str
    shown: str


def read(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(m["language"], m["title"] or "", m["text"]) for m in _FENCE.finditer(text)]


def steps(console: str) -> Iterator[Step]:
    """The commands of a console block: they begin with ``$``, and go on with their heredoc."""
    lines = console.splitlines()
    while lines:
        first = lines.pop(0)
        assert first.startswith("$ "), f"no command: {first}"
        command = [first.removeprefix("$ ")]
        if heredoc := _HEREDOC.search(first):
            while command[-1] != heredoc[1]:
                command.append(lines.pop(0))
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        yield Step("\n".join(command), "\n".join(shown))


def fits(printed: str, shown: str) -> bool:
    """Whether this was printed: ``…`` stands for anything, alone in a line for any lines.

    Times, white space, empty lines and the length of rules do not count.
    """
    pattern = ""
    for line in _plain(shown).splitlines():
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, line.split("…"))) + r"\n"
    return re.fullmatch(pattern, _plain(printed)) is not None


def _plain(text: str) -> str:
    lines = []
    for line in _TIME.sub("TIME", text).splitlines():
        line = re.sub(r"-{3,}", "---", line)
        line = re.sub(r"\s+", " ", line).strip()
        if line:
            lines.append(f"{line}\n")
    return "".join(lines)
