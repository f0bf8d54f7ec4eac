"""The filters of `relay events` and `relay dlq`, and the question before many are changed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
import msgspec

from relay.cli.completion import source_names
from relay.cli.durations import span_or_moment
from relay.display import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from relay.store.events import Filter

_STATES = ("pending", "retrying", "dead", "skipped", "delivered")


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The filter flags as they were given."""

    source: str | None
    type: str | None
    object: str | None
    since: timedelta | datetime | None
    until: timedelta | datetime | None
    state: str | None
    error: str | None

    @property
    def is_empty(self) -> bool:
        """Whether no flag was given: everything would fit."""
        return all(getattr(self, name) is None for name in self.__struct_fields__)


_OPTIONS = (
    click.option(
        "--source",
        metavar="NAME",
        shell_complete=source_names,
        help="Of this source (name or id).",
    ),
    click.option("--type", metavar="PATTERN", help="Of this event type; may contain '*'."),
    click.option("--object", metavar="ID", help="About this object, such as cus_…"),
    click.option(
        "--since",
        type=span_or_moment,
        metavar="TIME",
        help="Not before: 2h or 3d ago, RFC 3339 or Unix seconds.",
    ),
    click.option("--until", type=span_or_moment, metavar="TIME", help="Before: like --since."),
    click.option("--state", type=click.Choice(_STATES), help="In this state."),
    click.option("--error", metavar="CODE", help="With this error code."),
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the filter flags; it receives them as one ``Wanted``."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in Wanted.__struct_fields__}
        return command(*args, wanted=Wanted(**flags), **kwargs)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


def bulk_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what changes many at once needs: --yes, --dry-run and --reason."""
    for option in (
        click.option("--reason", metavar="TEXT", help="Why; kept in the operator log."),
        click.option("--dry-run", is_flag=True, help="Show what would happen and change nothing."),
        click.option("--yes", "-y", is_flag=True, help="Do not ask."),
    ):
        command = option(command)
    return command


async def resolve(connection: AsyncConnection, wanted: Wanted) -> Filter:
    """The filter with the source's name and with moments by the database's clock.

    Raises ``ConfigError`` when no source has, or ever had, that name.
    """
    from relay.store import events, sources

    now = await events.now(connection)
    source = wanted.source
    if source is not None and source not in await sources.names(connection):
        source = (await sources.find(connection, source)).config.name
    return msgspec.convert(
        {
            "source": source,
            "type": wanted.type,
            "object": wanted.object,
            "since": _moment(wanted.since, now),
            "until": _moment(wanted.until, now),
            "state": wanted.state,
            "error": wanted.error,
        },
        events.Filter,
    )


def _moment(given: timedelta | datetime | None, now: datetime) -> datetime | None:
    return now - given if isinstance(given, timedelta) else given


def confirm(question: str, *, yes: bool) -> None:
    """Ask before many are changed. Without a terminal to ask at, `--yes` must have been given."""
    if yes:
        return
    question = printable(question)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask at: repeat with --yes.")
    with _ctrl_c_at_once():
        click.confirm(question, abort=True, err=True)


@contextmanager
def _ctrl_c_at_once() -> Iterator[None]:
    """While a question waits: asyncio would only note a Ctrl-C, and act on it after the answer."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def require_choice(ids: tuple[str, ...], wanted: Wanted) -> None:
    """Either ids or filters, and one of them: nothing changes everything by accident."""
    if ids and not wanted.is_empty:
        raise click.UsageError("give ids or filters, not both")
    if not ids and wanted.is_empty:
        raise click.UsageError("name ids, or give a filter such as --source or --error")
