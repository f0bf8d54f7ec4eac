"""`relay serve`: the services, in production."""

from __future__ import annotations

import os

import click

from relay.cli.call import Call, common, configured
from relay.core.errors import RelayError


@click.command(short_help="Run the services, in production.")
@click.option(
    "--roles", metavar="A,B", help="What runs in this process: receiver, forwarder, admin.  [all]"
)
@common
def serve(call: Call, roles: str | None) -> None:
    """Run the services until SIGTERM, which drains them.

    Takes its settings from the environment only, never from what `relay dev` left. Writes nothing
    but logs, which --json makes JSON.
    """
    import structlog
    import uvloop

    from relay import app, logs

    environ = dict(os.environ)
    if call.json:
        environ["RELAY_LOG_FORMAT"] = "json"
    settings = configured(environ)
    logs.log_uncaught()
    chosen = app.parse_roles(roles)
    settings.require_database_url()
    if "forwarder" in chosen:
        settings.require_kafka()
    try:
        uvloop.run(app.serve(settings, chosen))
    except RelayError:
        raise
    except Exception:
        # Whoever runs a service reads its log: there the whole story belongs.
        structlog.get_logger("relay.cli").exception("serve.crashed")
        raise click.exceptions.Exit(1) from None
