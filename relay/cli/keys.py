"""`relay encryption-key`: the keys that secrets are stored under."""

from __future__ import annotations

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.output import say, write_json
from relay.core.errors import ConfigError


@click.group("encryption-key", short_help="Keys that secrets are stored under.")
def encryption_key() -> None:
    """The keys of RELAY_ENCRYPTION_KEYS: the first encrypts secrets, all decrypt them."""


@encryption_key.command()
@common
def new(call: Call) -> None:
    """Make a key. Put it first in RELAY_ENCRYPTION_KEYS, before the older ones."""
    from relay.store.sealing import new_key

    key = new_key()
    if call.json:
        write_json({"encryption_key": key})
    else:
        # The key alone, so that a script can take it: `relay encryption-key new > key`.
        click.echo(key)


@encryption_key.command()
@common
@coroutine
async def rotate(call: Call) -> None:
    """Encrypt all stored secrets anew with the first key; the other keys are not needed then."""
    from relay.store import events, sources
    from relay.store.sealing import Seal

    if not call.settings.encryption_keys:
        raise ConfigError(
            "RELAY_ENCRYPTION_KEYS is not set: put the new key first and the present ones after it",
            setting="RELAY_ENCRYPTION_KEYS",
        )
    seal = Seal(call.settings.encryption_keys)
    async with call.database() as database, database.begin() as connection:
        renewed = await sources.renew_secrets(connection, seal)
        details = {"secrets": renewed}
        operator = call.operator(None)
        await events.log(connection, operator, "encryption_key.rotate", "all sources", details)
    if call.json:
        write_json({"renewed": renewed})
    else:
        say(f"{renewed} secrets are encrypted with the first key now")
