"""`relay redact`: the bodies of one object's events are erased, what proves them stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.failures import Failure
from relay.cli.filters import bulk_options, confirm
from relay.cli.output import say, warn, write_json, write_table

if TYPE_CHECKING:
    from relay.store.engine import Database
    from relay.store.events import Operator
    from relay.store.redactions import Extent

_SHOWN = 20
_COLUMNS = ("id", "event_id", "event_type", "source", "state", "received_at", "body_bytes")


@click.command(short_help="Erase the bodies of one object's events.")
@click.argument("object_id", metavar="OBJECT_ID")
@click.option(
    "--source",
    metavar="NAME",
    shell_complete=source_names,
    help="Only of this source (name or id), not of all.",
)
@bulk_options
@common
@coroutine
async def redact(
    call: Call,
    object_id: str,
    source: str | None,
    yes: bool,
    dry_run: bool,
    reason: str | None,
) -> None:
    """Erase the stored bodies of all events of one object (cus_…), for a privacy request.

    The rows, their ids, times and SHA-256 stay, and a row of relay.redactions says who erased the
    body, when and why (--reason must be given). Events that wait are skipped and open dead letters
    discarded, as `redacted`; none of them can be sent again. Events that arrive from now on are not
    touched, and neither is what is in Kafka. There is no way back.

    Interrupted, it can be run again and does the rest. Exits 1 when the object has no event.
    """
    from relay.store import redactions

    if not (reason or "").strip():
        raise click.UsageError("say why, with --reason: it is all that will be left to tell")
    operator = call.operator(reason)
    async with call.database() as database:
        async with database.begin() as connection:
            what = await redactions.extent(connection, object_id, source)
        if not (what.events or what.redacted or what.samples):
            of = f" in {source}" if source else ""
            raise Failure(f"there is no event of an object {object_id!r}{of}")
        if dry_run:
            await _write_plan(call, database, what)
            return
        if what.events or what.samples:
            confirm(f"erase for ever {_words(what)}?", yes=yes)
        done = await _run(call, database, what, operator)
    _write_done(call, what, done)


def _words(what: Extent) -> str:
    text = f"the bodies of {what.events} events of {what.object_id}"
    if what.waiting:
        text += f" ({what.waiting} of them wait and will not be sent)"
    if what.dead:
        text += f" ({what.dead} of them are dead letters and will be discarded)"
    if what.samples:
        text += f", and {what.samples} samples of refused requests that name it"
    return text


async def _run(call: Call, database: Database, what: Extent, operator: Operator) -> dict[str, int]:
    from relay.store import redactions

    done = {"redacted": 0, "skipped": 0, "discarded": 0, "samples": 0}
    after = 0
    try:
        while True:
            async with database.begin() as connection:
                step = await redactions.redact_some(connection, what, operator, after=after)
            if step.done is None:
                break
            after = step.done
            for name in ("redacted", "skipped", "discarded"):
                done[name] += getattr(step, name)
            if not call.json and done["redacted"] < what.events:
                click.echo(f"{done['redacted']} redacted", err=True)
        if what.samples:
            async with database.begin() as connection:
                done["samples"] = await redactions.redact_samples(connection, what, operator)
    except BaseException:
        warn(f"interrupted after {done['redacted']} events: the same again does the rest")
        raise
    return done


async def _write_plan(call: Call, database: Database, what: Extent) -> None:
    from relay.store import events, redactions
    from relay.store.events import Filter

    async with database.begin() as connection:
        first: list[dict[str, Any]] = []
        for inbox_id in await redactions.first_events(connection, what, _SHOWN):
            first += await events.list_events(connection, Filter(inbox_id=inbox_id))
    if call.json:
        write_json(
            {
                "object": what.object_id,
                "dry_run": True,
                "matched": what.events,
                "redacted_before": what.redacted,
                "waiting": what.waiting,
                "dead": what.dead,
                "samples": what.samples,
                "topics": list(what.topics),
                "first": first,
            }
        )
        return
    say(f"would erase {_words(what)}")
    if first:
        write_table(first, _COLUMNS, "")
    if what.events > len(first):
        say(f"… and {what.events - len(first)} more")
    _write_rest(what)


def _write_done(call: Call, what: Extent, done: dict[str, int]) -> None:
    if call.json:
        write_json(
            {
                "object": what.object_id,
                "dry_run": False,
                "matched": what.events,
                "redacted_before": what.redacted,
                **done,
                "topics": list(what.topics),
            }
        )
        return
    say(
        f"{done['redacted']} events redacted; {done['skipped']} of them waited and were skipped,"
        f" {done['discarded']} dead letters discarded"
    )
    if done["samples"]:
        say(f"{done['samples']} samples of refused requests redacted")
    _write_rest(what)


def _write_rest(what: Extent) -> None:
    """What was done before, and what no redaction reaches."""
    if what.redacted:
        say(f"{what.redacted} events were redacted before")
    if what.topics:
        say(f"still in Kafka: records in {', '.join(what.topics)}; see docs/redaction.md")
