"""`relay demo` and `relay dev`: everything on one machine, from installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from relay.cli.call import DATA_DIR


@click.command(short_help="See it work, with nothing set up.")
@click.option(
    "--events", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, metavar="N"
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def demo(events: int, as_json: bool) -> None:
    """Show the whole path on throw-away parts, and check that nothing is missing.

    Starts a PostgreSQL and a Kafka-compatible broker of its own, posts signed events to the real
    endpoint, reads the topics back and compares. Needs no configuration.
    """
    from relay.dev import demo as module

    sys.exit(module.run(events, as_json))


@click.command(short_help="Keep it running for development.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--admin-port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DATA_DIR,
    show_default=True,
    help="Where the inbox and relay.env are kept.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object with all addresses when ready."
)
def dev(port: int, admin_port: int, data_dir: Path, as_json: bool) -> None:
    """Keep everything running for development, with one source named `dev`, until Ctrl-C.

    Other commands in this directory use it by themselves.
    """
    from relay.dev import stack

    sys.exit(stack.run(port, admin_port, data_dir, as_json))
