"""The page of all commands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from relay.cli.main import main
from website.markdown import block, code, prose, table

_INTRO = """# Commands

Every command exits with 0 when it is done, with 1 when it failed or the answer is no, and with 2 for a wrong flag or
setting; messages go to stderr. What `--help` says:
"""
_EVERYWHERE = ("--json", "--data-dir", "--help")


def page() -> str:
    return "\n".join([_INTRO, *(_section(path, command) for path, command in walk())])


def walk(
    command: click.Command = main, path: tuple[str, ...] = ("relay",)
) -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups before their members."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from walk(member, (*path, name))


def _section(path: str, command: click.Command) -> str:
    level = "##" if path.count(" ") < 2 else "###"
    parts = [f"{level} {path}\n"]
    context = click.Context(command, info_name=path)
    if not isinstance(command, click.Group):
        usage = " ".join((path, *command.collect_usage_pieces(context)))
        parts.append(block("text", usage))
    parts += [f"{prose(each)}\n" for each in _paragraphs(command)]
    # Arguments have a row in some versions of click, an empty one; the usage and the text tell them.
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    records = [record for p in options if (record := p.get_help_record(context))]
    if rows := [(code(flag), prose(text)) for flag, text in records if not _is_common(flag)]:
        parts.append(table(("option", "what it does"), rows))
    return "\n".join(parts)


def _paragraphs(command: click.Command) -> list[str]:
    return re.split(r"\n\s*\n", inspect.cleandoc(command.help or "").replace("\b\n", ""))


def _is_common(flag: str) -> bool:
    return any(name in flag.split(", ") or name in flag.split() for name in _EVERYWHERE)
