"""How results are written: JSON for machines, tables and lines for people.

Text that others sent us (ids, types, errors, bodies) is never written as it is to a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from relay.display import moment, printable

# Columns that a narrow terminal may fold, down to the least width.
_LONG_TEXTS = frozenset({"error", "last_error", "records"})
_LEAST_WIDTH = 30
_GAP = 2
_ENDLESS = 1_000_000


def write_json(value: object, *, one_line: bool = False) -> None:
    """One JSON document; ASCII only, so that nothing in it can reach a terminal as a command."""
    text = json.dumps(value, indent=None if one_line else 2, default=_as_json)
    click.echo(text.replace("\x7f", "\\u007f"))


def _as_json(value: object) -> object:
    import msgspec

    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return moment(value)
    return msgspec.to_builtins(value)


def cell(value: object) -> str:
    """One value for people; `-` is for what there is none of."""
    if value is None or value in ("", (), []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    return printable(str(value))


def say(text: str = "") -> None:
    """A line on stdout, and the blank ones that ``text`` begins with. Within it there are none."""
    line = text.lstrip("\n")
    click.echo(text[: len(text) - len(line)] + printable(line))


def warn(text: str) -> None:
    """A warning on stderr."""
    click.secho(f"warning: {printable(text)}", err=True, fg="yellow")


def write_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    empty: str,
    *,
    spare: Sequence[str] = (),
) -> None:
    """The given columns of rows; ``empty`` is said when there are none.

    Ids are never cut or folded: what is copied is whole. Where a terminal is too narrow, ``spare``
    columns are left out, the first of them first, and it is said which; if that is not enough, it
    may wrap the line.
    """
    if not rows:
        say(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    widths = {name: _least_width(rows, name) for name in columns}
    left_out = []
    for name in spare if console.is_terminal else ():
        if sum(widths.values()) - _GAP <= console.width:
            break
        if widths.pop(name, None) is not None:
            left_out.append(_title(name).lower())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in widths:
        table.add_column(_title(name), overflow="fold", no_wrap=name not in _LONG_TEXTS)
    for row in rows:
        table.add_row(*(Text(cell(row[name])) for name in widths))
    needed = sum(widths.values())
    console.width = max(console.width, needed) if console.is_terminal else _ENDLESS
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))
    if left_out:
        click.echo(f"(too narrow for {', '.join(left_out)}: --json has all)", err=True)


def _title(name: str) -> str:
    return name.replace("_", " ").upper()


def _least_width(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    """What a column takes with the gap to the next one; long texts may be folded."""
    from rich.cells import cell_len

    widest = max(cell_len(_title(name)), *(cell_len(cell(row[name])) for row in rows))
    return _GAP + (min(widest, _LEAST_WIDTH) if name in _LONG_TEXTS else widest)


def write_fields(fields: Mapping[str, object]) -> None:
    """Names and values below each other."""
    width = max(len(name) for name in fields) + 2
    for name, value in fields.items():
        say(f"{name.replace('_', ' '):<{width}}{cell(value)}")
