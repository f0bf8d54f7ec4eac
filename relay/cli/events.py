"""`relay events`: what was received, what became of it, and a hand for what waits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec

from relay.cli import replaying
from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.failures import Failure
from relay.cli.filters import (
    Wanted,
    bulk_options,
    confirm,
    filter_options,
    require_choice,
    resolve,
)
from relay.cli.output import say, write_fields, write_json, write_table
from relay.cli.progress import in_batches
from relay.display import printable

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from relay.store.events import Filter, State

_COLUMNS = ("id", "event_id", "event_type", "object_id", "source", "state", "received_at")
_SPARE = ("source", "object_id", "received_at")
_WAITING: tuple[State, ...] = ("pending", "retrying")
_SHOWN_BY_DRY_RUN = 20


@click.group(short_help="Events and what became of them.")
def events() -> None:
    """Events: every webhook that was answered 2xx, and what became of it."""


@events.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--before", type=int, metavar="ID", help="Continue a list below this id.")
@common
@coroutine
async def list_(call: Call, wanted: Wanted, limit: int, before: int | None) -> None:
    """Events that fit all filters, the newest first."""
    from relay.store import events as store

    async with call.database() as database, database.begin() as connection:
        chosen = await resolve(connection, wanted)
        found = await store.list_events(connection, chosen, limit=limit, before_id=before)
    if call.json:
        write_json(found)
        return
    failing = any(event["last_error_code"] for event in found)
    columns = (*_COLUMNS, "last_error_code") if failing else _COLUMNS
    write_table(found, columns, "no events fit", spare=_SPARE)
    if len(found) == limit:
        say(f"… the next ones: --before {found[-1]['id']}")


@events.command()
@click.argument("event", metavar="EVENT")
@click.option(
    "--source",
    metavar="NAME",
    shell_complete=source_names,
    help="When several sources have this event.",
)
@click.option("--body", is_flag=True, help="Write only the body, byte for byte as received.")
@common
@coroutine
async def show(call: Call, event: str, source: str | None, body: bool) -> None:
    """One event (evt_… or inbox id): its state, its records in Kafka, its failures, its body."""
    from relay.store import events as store
    from relay.store import redactions

    async with call.database() as database, database.begin() as connection:
        found = await store.show_events(connection, named(event, source))
        told = await redactions.of_events(connection, [each["id"] for each in found])
    if not found:
        raise Failure(f"there is no event {event!r}")
    for each in found:
        each["redaction"] = told.get(each["id"])
    if body:
        if len(found) > 1:
            names = ", ".join(each["source"] for each in found)
            raise click.UsageError(f"several sources have this event ({names}): add --source")
        if found[0]["redaction"]:
            raise Failure(f"the body of {event} was {found[0]['redaction']}")
        _write_body(found[0]["body"])
    elif call.json:
        write_json([each | {"body": _body_or_none(each)} for each in found])
    else:
        for each in found:
            _write_event(each)


def _text(body: bytes) -> str:
    """The body as text; backslash escapes stand for bytes that are none."""
    return body.decode("utf-8", "backslashreplace")


def _body_or_none(event: dict[str, Any]) -> str | None:
    return None if event["redaction"] else _text(event["body"])


def _write_body(body: bytes) -> None:
    if sys.stdout.isatty():
        click.echo(printable(_text(body), keep="\n\t"))
    else:
        sys.stdout.buffer.write(body)


def _write_event(event: dict[str, Any]) -> None:
    parts = ("deliveries", "failures", "body", "redaction")
    write_fields({name: value for name, value in event.items() if name not in parts})
    if event["deliveries"]:
        say("\nrecords in Kafka")
        columns = ("topic", "partition", "offset", "key", "op", "kind", "produced_at")
        write_table(event["deliveries"], columns, "")
    if event["failures"]:
        say("\nfailures")
        write_table(event["failures"], ("failed_at", "error_code", "error"), "")
    say("\nbody")
    if event["redaction"]:
        say(str(event["redaction"]))
        say()
        return
    text = _text(event["body"])
    click.echo(printable(text[:4000], keep="\n\t"))
    if len(text) > 4000:
        say(f"… {len(text) - 4000} characters more: --body")
    say()


@events.command()
@click.argument("event_ids", metavar="[EVENT]…", nargs=-1)
@filter_options
@bulk_options
@common
@coroutine
async def retry(call: Call, event_ids: tuple[str, ...], wanted: Wanted, **bulk: Any) -> None:
    """Try waiting events now instead of at their next attempt; frees a source halted at one."""
    from relay.store import events as store

    await _act(call, event_ids, wanted, store.retry, ("retry", "retried"), **bulk)


@events.command()
@click.argument("event_ids", metavar="[EVENT]…", nargs=-1)
@filter_options
@bulk_options
@common
@coroutine
async def skip(call: Call, event_ids: tuple[str, ...], wanted: Wanted, **bulk: Any) -> None:
    """Give waiting events up: they are not sent, and their receipt says `discarded`."""
    from relay.store import events as store

    await _act(call, event_ids, wanted, store.skip, ("skip", "skipped"), **bulk)


@events.command(short_help="Send settled events again.")
@click.argument("event_ids", metavar="[EVENT]…", nargs=-1)
@filter_options
@click.option("--topic", metavar="NAME", help="With a record in this topic.")
@click.option("--resume", metavar="REPLAY", help="Go on with a replay that was interrupted: rpl_…")
@bulk_options
@common
@coroutine
async def replay(
    call: Call,
    event_ids: tuple[str, ...],
    wanted: Wanted,
    topic: str | None,
    resume: str | None,
    **bulk: Any,
) -> None:
    """Send events again that were delivered (or skipped: --state skipped).

    Each goes to the end of its object's line, and its records carry a _replay_id. What is dead is
    sent again by `relay dlq replay`; what waits will be sent anyway.

    Many, by filters, keep the order of each object among themselves and come before whatever
    arrives after the start. Pause their sources meanwhile (`relay source pause`, which goes on
    receiving): then nothing newer of an object can be sent before its older events.
    """
    await replaying.replay(call, event_ids, wanted, topic, resume, **bulk)


async def _act(
    call: Call,
    event_ids: tuple[str, ...],
    wanted: Wanted,
    action: Callable[..., Any],
    words: tuple[str, str],
    *,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    require_choice(event_ids, wanted)
    if wanted.state not in (None, *_WAITING):
        raise click.UsageError(f"events that are {wanted.state} do not wait; see `relay dlq`")
    verb, done = words
    async with call.database() as database:
        async with database.begin() as connection:
            chosen = await resolve(connection, wanted)
            ids = await _waiting_ids(connection, event_ids, chosen)
            if dry_run:
                await _write_plan(call, connection, ids, verb)
                return
        if ids and not event_ids:
            confirm(f"{verb} {len(ids)} waiting events?", yes=yes)
        act = partial(action, operator=call.operator(reason), wanted=None if event_ids else chosen)
        changed = await in_batches(database, ids, act, verb)
    if call.json:
        write_json({"matched": len(ids), done: changed})
    else:
        say(f"{changed} events {done}" if ids else "no waiting events fit")


async def _waiting_ids(
    connection: AsyncConnection, event_ids: tuple[str, ...], chosen: Filter
) -> list[int]:
    """The inbox ids of the waiting events that are meant, the newest first.

    So a skip in several transactions takes away what waits behind before what it waits for.
    """
    from relay.store import events as store

    if not event_ids:
        states = _WAITING if chosen.state is None else (chosen.state,)
        each = [msgspec.structs.replace(chosen, state=state) for state in states]
        found = [i for one in each for i in await store.find_ids(connection, one)]
        return sorted(found, reverse=True)
    ids: list[int] = []
    for event_id in event_ids:
        events = await store.list_events(connection, named(event_id))
        if not events:
            raise Failure(f"there is no event {event_id!r}")
        waiting = [event["id"] for event in events if event["state"] in _WAITING]
        if not waiting:
            hint = "; see `relay dlq replay`" if events[0]["state"] == "dead" else ""
            raise Failure(f"{event_id} does not wait: it is {events[0]['state']}{hint}")
        ids += waiting
    return ids


def named(event: str, source: str | None = None) -> Filter:
    """The filter for one event as people name it: its inbox id or its event id."""
    from relay.store.events import Filter

    if event.isascii() and event.isdigit() and len(event) < 19:
        return Filter(inbox_id=int(event), source=source)
    return Filter(event_id=event, source=source)


async def _write_plan(call: Call, connection: AsyncConnection, ids: list[int], verb: str) -> None:
    from relay.store import events as store

    first = [await store.list_events(connection, named(str(i))) for i in ids[:_SHOWN_BY_DRY_RUN]]
    events = [event for found in first for event in found]
    if call.json:
        write_json({"matched": len(ids), "dry_run": True, "first": events})
        return
    say(f"would {verb} {len(ids)} events")
    if events:
        columns = ("id", "event_id", "event_type", "source", "state", "last_error_code")
        write_table(events, columns, "")
    if len(ids) > len(events):
        say(f"… and {len(ids) - len(events)} more")
