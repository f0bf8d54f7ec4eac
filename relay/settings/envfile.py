"""Files of ``NAME=value`` lines, such as the one that ``relay dev`` leaves for other commands.

The format is the part that a POSIX shell and most dotenv readers agree on, so that
``set -a; . .relay/relay.env`` works too.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from relay.core.errors import ConfigError


def read(path: Path) -> dict[str, str]:
    """The variables of the file. Raises ``ConfigError`` naming the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from error
    values: dict[str, str] = {}
    for place, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"{path}, line {place}: {error}") from error
        if words[:1] == ["export"]:
            words = words[1:]
        if not words:
            continue
        name, equals, value = words[0].partition("=")
        if len(words) > 1 or not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"{path}, line {place}: must be NAME=value, quoted if it has blanks")
        values[name] = value
    return values


def write(path: Path, values: Mapping[str, str], *, heading: str = "") -> None:
    """Replace the file in one step, readable by its owner only: it holds keys."""
    text = "".join(f"# {line}\n" for line in heading.splitlines())
    text += "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
