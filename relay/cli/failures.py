"""What a command says when it cannot do its work: one clear line, never a traceback by itself."""

from __future__ import annotations

import os
import traceback

import click

from relay.core.errors import ConfigError, RelayError
from relay.display import printable, redact


class Failure(click.ClickException):
    """Ends the command with one line on stderr and exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(redact(message), keep="\n"))

    def show(self, file: object = None) -> None:
        click.echo(f"relay: {self.message}", err=True)


class Misuse(Failure):
    """A setting or a flag is wrong: exit code 2."""

    exit_code = 2


def of_error(error: Exception) -> Failure:
    """The line for an exception that a command let through."""
    if wants_tracebacks():
        trace = "".join(traceback.format_exception(error))
        click.echo(printable(redact(trace), keep="\n"), err=True)
    if isinstance(error, RelayError):
        return (Misuse if isinstance(error, ConfigError) else Failure)(error.message)
    hint = "" if wants_tracebacks() else " (RELAY_LOG_LEVEL=debug shows where)"
    return Failure(f"unexpected {type(error).__name__}: {error}{hint}")


def of_database(error: BaseException, place: str) -> Failure | None:
    """The line for an error of PostgreSQL or of the way to it; None when it is none of these.

    ``place`` tells where the address of the database came from.
    """
    from relay.kafka import NoBrokerError
    from relay.store.engine import UNAVAILABLE
    from relay.store.trouble import cause_of, explain

    cause = cause_of(error)
    if isinstance(cause, NoBrokerError):  # a ConnectionError too, of a command that asks both
        return Failure(str(cause))
    code = getattr(cause, "sqlstate", None)
    text = " ".join(str(cause).split()) or type(cause).__name__
    reason = explain(cause)
    match code:
        case "42P01" | "3F000":  # undefined table, undefined schema
            return Failure("the database has no schema of relay, or an older one: `relay migrate`")
        case "42501":  # insufficient privilege
            return Failure(f"the role of {place} may not do this: {text}")
        case "28P01" | "28000" | "3D000":  # wrong password, not allowed, no such database
            return Failure(
                f"PostgreSQL refuses the connection: {text}; {reason or f'check {place}'}"
            )
    if isinstance(cause, UNAVAILABLE):
        return Failure(f"PostgreSQL is away: {text}; {reason or f'check {place} and the server'}")
    if code is not None:
        return Failure(f"PostgreSQL: {text} ({code})")
    return None


def wants_tracebacks() -> bool:
    """Whether the user is looking for a mistake of ours."""
    return os.environ.get("RELAY_LOG_LEVEL", "").strip().lower() == "debug"
