"""`relay source`: the Stripe accounts that this deployment relays."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import click

from relay.cli import source_settings
from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.durations import span
from relay.cli.failures import Failure
from relay.cli.output import say, write_fields, write_json, write_table
from relay.cli.source_settings import Given, setting_options
from relay.cli.source_view import view, warn_about, warn_about_address, write_key
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
    from relay.core.source import SourceConfig, check_verified, with_settings
    from relay.store import events, snapshots, source_changes
    from relay.store.sealing import Seal

    config = SourceConfig(source_id=0, public_id="", name=name)
    config = with_settings(config, given.settings)
    check_verified(config, has_secrets=bool(given.signing_secrets))
    wanted = await _initial_load(call, config, given.stripe_api_key) if with_snapshot else None
    snapshot_id = None
    seal = Seal(call.settings.encryption_keys)
    async with call.database() as database, database.begin() as connection:
        made, key = await source_changes.create(
            connection, config, given.change(), seal, call.operator(None)
        )
        if wanted is not None:
            # With the source, so that neither is there without the other.
            snapshot_id = await snapshots.start(connection, wanted, made.config.source_id)
            await events.log(connection, call.operator(None), "snapshot.start", snapshot_id)
    url = call.settings.webhook_url(made.config.public_id, key)
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
        "webhook_url": call.settings.webhook_url(found.config.public_id, None),
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
    from relay.store import source_changes, sources
    from relay.store.sealing import Seal

    wanted = given.change(
        name=name,
        added=source_settings.read_signing_secrets(added, ()) or (),
        removed=removed,
        forget_stripe_key=no_stripe_api_key,
    )
    if wanted.is_empty:
        raise click.UsageError("nothing to change: name at least one setting")
    if no_stripe_api_key and given.stripe_api_key:
        raise click.UsageError("--stripe-api-key and --no-stripe-api-key contradict each other")
    seal = Seal(call.settings.encryption_keys)
    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        done = await source_changes.update(connection, found, wanted, seal, call.operator(None))
        changed = done.source
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
    from relay.store import source_changes, sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        key = await source_changes.rotate_key(connection, found, grace, call.operator(None))
    url = call.settings.webhook_url(found.config.public_id, key)
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
    await _set_forwarding(call, name_or_id, "pause")


@source.command(short_help="Forward again, after a pause or a halt.")
@click.argument("name_or_id", metavar="SOURCE", shell_complete=source_names)
@common
@coroutine
async def resume(call: Call, name_or_id: str) -> None:
    """Forward again, after a pause or a halt; an event that it halted at is tried again."""
    await _set_forwarding(call, name_or_id, "resume")


async def _set_forwarding(call: Call, name_or_id: str, action: Literal["pause", "resume"]) -> None:
    from relay.store import source_changes, sources

    async with call.database() as database, database.begin() as connection:
        found = await sources.find(connection, name_or_id, lock=True)
        changed = await source_changes.set_forwarding(
            connection, found, action, call.operator(None)
        )
    if call.json:
        write_json(view(changed))
    else:
        say(f"source {changed.config.name} is {changed.state}")


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
    from relay.store import source_changes, sources

    try:
        async with call.database() as database, database.begin() as connection:
            found = await sources.find(connection, name_or_id, lock=True)
            gone = await source_changes.delete(
                connection, found, call.operator(None), discard_pending=discard_pending
            )
    except source_changes.NotFinished as error:
        raise Failure(
            f"{error.message}: let them finish, or give them up with --discard-pending"
        ) from error
    if call.json:
        write_json(
            {
                "id": gone.source.public_id,
                "name": gone.source.name,
                "discarded_events": gone.events,
                "discarded_dead_letters": gone.dead_letters,
            }
        )
    else:
        say(f"source {gone.source.name} deleted")
        if gone.events or gone.dead_letters:
            say(f"given up: {gone.events} waiting events, {gone.dead_letters} dead letters")


async def _initial_load(call: Call, config: SourceConfig, stripe_key: str | None) -> Plan:
    """What a new source is to be filled with. Raises ConfigError and Failure, see the plan."""
    from relay.cli.stripe_key import try_key
    from relay.store.snapshot_plan import Asked, plan

    wanted = plan(config, stripe_key, Asked())
    assert stripe_key is not None, "there is no plan without a key"
    await try_key(call.settings, stripe_key, wanted, config.name)
    return wanted
