"""Whether relay itself takes what a deployment file gives it: settings and command lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import click

from relay.app import parse_roles
from relay.cli.main import main
from relay.settings import Settings, load
from relay.store.sealing import new_key

URL = "postgresql://somebody:secret@postgres.example/relay"


def load_with_secrets(environ: Mapping[str, str], mounted: set[str], directory: Path) -> Settings:
    """The settings, with each ``RELAY_X_FILE`` found where it is ``mounted``; else the test fails.

    Only the paths are of the deployment: the contents are made up, valid, and put elsewhere.
    """
    contents = {
        "RELAY_DATABASE_URL_FILE": URL,
        "RELAY_ENCRYPTION_KEYS_FILE": new_key(),
        "RELAY_ADMIN_TOKEN_FILE": "a token",
    }
    found = {name: value for name, value in environ.items() if name.startswith("RELAY_")}
    for name, value in found.items():
        if name.endswith("_FILE"):
            assert value in mounted, f"{name}: nothing puts {value} there"
            path = directory / PurePosixPath(value).name
            path.write_text(contents[name])
            found[name] = str(path)
    return load(found)


def check_command(arguments: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Have the command line parsed, not run; returns the roles of `serve`.

    Fails the test when the command would not start with these settings.
    """
    with click.Context(main) as context:
        command = main.get_command(context, arguments[0])
        assert command is not None, f"relay has no command {arguments[0]!r}"
        parsed = command.make_context(arguments[0], list(arguments[1:]), parent=context)
    settings.require_database_url()
    if arguments[0] != "serve":
        return ()
    roles = parse_roles(parsed.params["roles"])
    if "forwarder" in roles:
        settings.require_kafka()
    if {"receiver", "snapshotter"} & set(roles):
        assert settings.encryption_keys
    return roles
