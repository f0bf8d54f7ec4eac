"""`relay source`: the Stripe accounts that this deployment relays."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from relay.cli import source_settings
from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.durations import span
from relay.cli.failures import Failure
from relay.cli.output import say, write_fields, write_json, write_table
from relay.cli.source_settings import Given, setting_options
from relay.cli.source_view import (
    state,
    view,
    warn_about,
    warn_about_address,
    webhook_url,
    write_key,
)
from relay.core.errors import ConfigError
from relay.display import duration

if TYPE_CHECKING:
    from relay.core.source import SourceConfig
    from relay.store.snapshots import Plan


@click.group(short_help="Stripe accounts to relay.")
def source() -> None:
    """Stripe accounts (or Connect platforms): each has its own URL, key, secrets and settings."""


@source.command()
@click.argument("name")
@setting_options
@click.option(
    "--snapshot", "with_snapshot", is_flag=True, help="Start the initial load from the Stripe API."
)
@common
@coroutine
async def create(call: Call, name: str, given: Given, with_snapshot: bool) -> None:
    """Make a source and print its webhook URL.

    The key in the URL is shown this once: only its hash is stored.
    """
    from relay.core.source import SourceConfig
    from relay.store import events, snapshots, sources
    from relay.store.sealing import Seal

    config = SourceConfig(source_id=0, public_id="", name=name)
    config = source_settings.with_settings(config, given.settings)
    secrets = given.signing_secrets or ()
    _check_verified(config, secrets)
    wanted = await _initial_load(call, config, given.stripe_api_key) if with_snapshot else None
    snapshot_id = None
    seal = Seal(call.settings.encryption_keys)
    async with call.database() as database, database.begin() as connection:
        made, key = await sources.create(
            connection,
            config,
            sealed_secrets=[seal.seal(secret.encode()) for secret in secrets],
            sealed_stripe_key=_sealed(seal, given.stripe_api_key),
        )
        await events.log(connection, call.operator(None), "source.create", made.config.public_id)
        if wanted is not None:
            # With the source, so that neither is there without the other.
            snapshot_id = await snapshots.start(connection, wanted, made.config.source_id)
            await events.log(connection, call.operator(None), "snapshot.start", snapshot_id)
    url = webhook_url(call.settings, made.config.public_id, key)
    if call.json:
        loading = {} if snapshot_id is None else {"snapshot": snapshot_id}
        write_json(view(made) | {"webhook_url": url, "api_key": key} | loading)
    else:
        say(f"source {name} created: {made.config.public_id}")
        write_key(url, name)
        if snapshot_id is not None:
            say(
                f"snapshot {snapshot_id} has started. Add the URL in Stripe now: what changes from"
                " here on comes as live events only"
            )
    warn_about(made)
    warn_about_address(call.settings)


@source.command("list")
@common
@coroutine
async def list_(call: Call) -> None:
    """All sources, the oldest first."""
    from relay.store import sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.list_all(connection)
    if call.json:
        write_json([view(each) for each in found])
    else:
        columns = ("name", "id", "state", "signing_secrets", "mode", "route_by", "topic_prefix")
        write_table([view(each) for each in found], columns, "no sources: `relay source create`")
    for each in found:
        warn_about(each)


@source.command()
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@common
@coroutine
async def show(call: Call, name_or_id: str) -> None:
    """One source: its settings, its topics and how it is doing."""
    from relay.store import sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id)
        left = await sources.unfinished(connection, found.config.source_id)
    shown = view(found) | {
        "webhook_url": webhook_url(call.settings, found.config.public_id, None),
        "waiting": left.queued,
        "dead": left.dead,
    }
    if call.json:
        write_json(shown)
    else:
        topics = shown.pop("topics")
        shown.pop("warnings")
        write_fields(shown)
        say()
        write_table(topics, ("topic", "records"), "no topics")
    warn_about(found)


@source.command()
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@click.option("--name", help="A new name.")
@click.option(
    "--add-signing-secret",
    "added",
    multiple=True,
    metavar="whsec_…",
    help="Take this one too, as while Stripe rolls a secret. '-' reads stdin.",
)
@click.option(
    "--remove-signing-secret",
    "removed",
    multiple=True,
    metavar="whsec_…",
    help="Take this one no more; its last characters are enough (4 or more).",
)
@click.option("--no-stripe-api-key", is_flag=True, help="Forget the Stripe key.")
@setting_options
@common
@coroutine
async def update(
    call: Call,
    name_or_id: str,
    name: str | None,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    no_stripe_api_key: bool,
    given: Given,
) -> None:
    """Change settings of a source; what is not named stays. In force within 5 seconds.

    --signing-secret replaces all secrets by the ones given.
    """
    from relay.store import events, sources
    from relay.store.sealing import Seal

    if given.is_empty and not (name or added or removed or no_stripe_api_key):
        raise click.UsageError("nothing to change: name at least one setting")
    if no_stripe_api_key and given.stripe_api_key:
        raise click.UsageError("--stripe-api-key and --no-stripe-api-key contradict each other")
    more = source_settings.read_signing_secrets(added, ()) or ()
    seal = Seal(call.settings.encryption_keys)
    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        sealed = list(found.sealed_secrets)
        if given.signing_secrets is not None:
            sealed = [seal.seal(secret.encode()) for secret in given.signing_secrets]
        present = {each: seal.open(each).decode() for each in sealed} if more or removed else {}
        sealed += [seal.seal(s.encode()) for s in more if s not in present.values()]
        for end in removed:
            sealed.remove(_secret_ending(end, present))
        changes = dict(given.settings) | ({"name": name} if name else {})
        if sealed and "insecure" not in changes:
            changes["insecure"] = False
        config = source_settings.with_settings(found.config, changes)
        _check_verified(config, sealed)
        stripe_key = found.sealed_stripe_key
        if given.stripe_api_key or no_stripe_api_key:
            stripe_key = _sealed(seal, given.stripe_api_key)
        await sources.update_settings(
            connection,
            found.config.source_id,
            config,
            sealed_secrets=sealed,
            sealed_stripe_key=stripe_key,
        )
        log = {"changed": sorted(changes)}
        operator = call.operator(None)
        await events.log(connection, operator, "source.update", found.config.public_id, log)
        changed = await sources.find(connection, found.config.public_id)
    if call.json:
        write_json(view(changed))
    else:
        say(f"source {changed.config.name} updated")
    warn_about(changed)


@source.command(short_help="Make a new key for the webhook URL.")
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@click.option(
    "--grace",
    type=span,
    default="24h",
    show_default=True,
    metavar="TIME",
    help="How long the old keys stay good: 90s, 30m, 2h, 3d or 0.",
)
@common
@coroutine
async def rotate_key(call: Call, name_or_id: str, grace: timedelta) -> None:
    """Make a new key for the webhook URL and print it; the old ones end after the grace time."""
    from relay.store import events, sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        key = await sources.rotate_key(connection, found.config.source_id, grace)
        await events.log(
            connection, call.operator(None), "source.rotate_key", found.config.public_id
        )
    url = webhook_url(call.settings, found.config.public_id, key)
    if call.json:
        write_json(
            {
                "id": found.config.public_id,
                "name": found.config.name,
                "webhook_url": url,
                "api_key": key,
                "old_keys_end_in_seconds": grace.total_seconds(),
            }
        )
    else:
        ends = f"in {duration(grace.total_seconds())}" if grace else "now"
        say(f"source {found.config.name} has a new key; the old ones end {ends}")
        write_key(url, found.config.name)
    warn_about_address(call.settings)


@source.command()
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@common
@coroutine
async def pause(call: Call, name_or_id: str) -> None:
    """Stop forwarding a source. It goes on receiving: nothing is lost."""
    await _set_forwarding(call, name_or_id, on=False)


@source.command(short_help="Forward again, after a pause or a halt.")
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@common
@coroutine
async def resume(call: Call, name_or_id: str) -> None:
    """Forward again, after a pause or a halt; an event that it halted at is tried again."""
    await _set_forwarding(call, name_or_id, on=True)


async def _set_forwarding(call: Call, name_or_id: str, *, on: bool) -> None:
    from relay.store import events, sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        change, action = (
            (sources.resume, "source.resume") if on else (sources.pause, "source.pause")
        )
        await change(connection, found.config.source_id)
        await events.log(connection, call.operator(None), action, found.config.public_id)
        changed = await sources.find(connection, found.config.public_id)
    if call.json:
        write_json(view(changed))
    else:
        say(f"source {changed.config.name} is {state(changed)}")


@source.command(short_help="Close a source.")
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@click.option(
    "--discard-pending",
    is_flag=True,
    help="Give up what waits and what is dead; each event keeps a receipt that says so.",
)
@common
@coroutine
async def delete(call: Call, name_or_id: str, discard_pending: bool) -> None:
    """Close a source: its URL answers 401 from now on. What it received stays in the inbox.

    Refused while events are unfinished, unless --discard-pending gives them up.
    """
    from relay.store import events, snapshots, sources

    discarded = (0, 0)
    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        config = found.config
        # First, since it waits for the pages in hand, whose events are unfinished too.
        await snapshots.cancel_all(connection, config.source_id)
        left = await sources.unfinished(connection, config.source_id)
        if (left.queued or left.dead) and not discard_pending:
            raise Failure(
                f"source {config.name} has {left.queued} waiting events and {left.dead} dead"
                " letters: let them finish, or give them up with --discard-pending"
            )
        if discard_pending:
            discarded = await events.discard_source(
                connection, config.source_id, call.operator(None)
            )
        await sources.delete(connection, config.source_id)
        await events.log(connection, call.operator(None), "source.delete", config.public_id)
    if call.json:
        write_json(
            {
                "id": config.public_id,
                "name": config.name,
                "discarded_events": discarded[0],
                "discarded_dead_letters": discarded[1],
            }
        )
    else:
        say(f"source {config.name} deleted")
        if any(discarded):
            say(f"given up: {discarded[0]} waiting events, {discarded[1]} dead letters")


async def _initial_load(call: Call, config: SourceConfig, stripe_key: str | None) -> Plan:
    """What a new source is to be filled with. Raises ConfigError and Failure, see the plan."""
    from relay.cli.stripe_key import try_key
    from relay.store.snapshot_plan import Asked, plan

    wanted = plan(config, stripe_key, Asked())
    assert stripe_key is not None, "there is no plan without a key"
    await try_key(call.settings, stripe_key, wanted, config.name)
    return wanted


def _check_verified(config: SourceConfig, secrets: object) -> None:
    if not secrets and not config.insecure:
        raise ConfigError(
            "--signing-secret is missing: Stripe shows it with the endpoint (locally"
            " `stripe listen --print-secret`); --insecure takes events without proof, for now",
            setting="--signing-secret",
        )
    if secrets and config.insecure:
        raise ConfigError(
            "--insecure is for a source without a signing secret: leave it out",
            setting="--insecure",
        )


def _sealed(seal: Any, secret: str | None) -> bytes | None:
    return None if secret is None else seal.seal(secret.encode())


def _secret_ending(end: str, present: dict[bytes, str]) -> bytes:
    fitting = [sealed for sealed, secret in present.items() if secret.endswith(end.strip())]
    if len(end.strip()) < 4 or len(fitting) != 1:
        raise ConfigError(
            f"--remove-signing-secret: {len(fitting)} of the source's {len(present)} secrets end"
            " like that; give 4 or more characters that only one ends with",
            setting="--remove-signing-secret",
        )
    return fitting[0]
