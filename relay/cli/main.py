"""The command `relay`: its groups, and the one place where errors become lines and exit codes.

0: done. 1: failed, or the answer is no. 2: a wrong flag or setting.
"""

from __future__ import annotations

from typing import Any

import click

from relay.cli import (
    audit,
    completion,
    database,
    development,
    dlq,
    doctor,
    events,
    keys,
    redact,
    replays,
    roles,
    serve,
    snapshot,
    source,
    status,
    tail,
)
from relay.cli.failures import of_error


class Commands(click.Group):
    """A group whose commands may let any exception through."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one meets them, not in that of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            raise of_error(error) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="relay", prog_name="relay")
def main() -> None:
    """A durable relay of Stripe events through a PostgreSQL inbox to Kafka.

    Start with `relay demo`, which needs nothing, or `relay dev`. Settings are RELAY_* variables.
    """


for command in (
    development.demo,
    development.dev,
    database.migrate,
    database.housekeeping,
    roles.roles,
    serve.serve,
    source.source,
    snapshot.snapshot,
    events.events,
    dlq.dlq,
    replays.replays,
    redact.redact,
    status.status,
    tail.tail,
    audit.audit,
    doctor.doctor,
    keys.encryption_key,
    completion.completion,
):
    main.add_command(command)
