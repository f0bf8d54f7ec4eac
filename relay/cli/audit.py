"""`relay audit`: whether the promise was kept, from what is stored."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.completion import source_names
from relay.cli.durations import span_or_moment
from relay.cli.failures import Failure
from relay.cli.output import cell, say, write_json, write_table
from relay.display import moment

if TYPE_CHECKING:
    from relay.audit import Head, Records, Report, Violation

_SHOWN = 50
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-fA-F]{64})")


@click.command(short_help="Prove the promise from what is stored.")
@click.option(
    "--source",
    metavar="NAME",
    shell_complete=source_names,
    help="Events of this source; then without the seals' rows.",
)
@click.option(
    "--since",
    type=span_or_moment,
    metavar="TIME",
    help="From the day on of 2h or 3d ago, RFC 3339 or Unix seconds.",
)
@click.option("--kafka", is_flag=True, help="Read the topics back and compare them as well.")
@click.option("--head", is_flag=True, help="Only print the newest seal, to be kept elsewhere.")
@click.option(
    "--expect",
    multiple=True,
    metavar="NUMBER:HASH",
    help="A head that was kept: it must still be in the chain. Repeatable.",
)
@common
@coroutine
async def audit(
    call: Call,
    source: str | None,
    since: timedelta | datetime | None,
    kafka: bool,
    head: bool,
    expect: tuple[str, ...],
) -> None:
    """Check that every event is accounted for, unchanged, sealed and, with --kafka, in its topic.

    Changes nothing, and may run beside the services. Exits with 1 when something is wrong.
    """
    from relay import audit as auditing

    if head and (source or since or kafka or expect):
        raise click.UsageError("--head only prints the newest seal: leave the other flags out")
    expected = tuple(_head(text) for text in expect)
    if head:
        async with call.database() as database:
            _write_head(call, await auditing.head(database))
        return
    scope = auditing.Scope(
        source=source,
        since=datetime.now(UTC) - since if isinstance(since, timedelta) else since,
        expected=expected,
    )
    records = _records(call) if kafka else None
    try:
        async with call.database() as database:
            report = await auditing.audit(database, scope, records)
    finally:
        if records is not None:
            records.close()
    if call.json:
        write_json(_as_json(report))
    else:
        _write(report)
    if report.violations:
        raise click.exceptions.Exit(1)


def _head(text: str) -> Head:
    from relay.audit import Head

    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise click.UsageError(f"--expect {text!r}: write NUMBER:HASH, as --head prints it")
    return Head(int(match[1]), bytes.fromhex(match[2]))


def _records(call: Call) -> Records:
    from relay.audit import Records

    settings = call.settings
    return Records(settings.require_kafka(), settings.kafka_properties)


def _write_head(call: Call, head: Head | None) -> None:
    if call.json:
        write_json(_head_as_json(head))
    elif head is None:
        raise Failure("nothing is sealed yet: housekeeping does it, once a minute")
    else:
        say(f"{head.number}:{head.sha256.hex()}")


def _head_as_json(head: Head | None) -> dict[str, object]:
    if head is None:
        return {"number": None, "sha256": None}
    return {"number": head.number, "sha256": head.sha256.hex()}


def _as_json(report: Report) -> dict[str, object]:
    return {
        "ok": not report.violations,
        "audited_at": moment(report.audited_at),
        "source": report.source,
        "since": None if report.since is None else moment(report.since),
        "head": _head_as_json(report.head),
        "checks": report.checks,
        "notes": report.notes,
        "violations": report.violations,
    }


def _write(report: Report) -> None:
    rows = [
        {
            "check": each.name,
            "looked_at": f"{each.looked_at:,}",
            "violations": f"{each.violations:,}",
            "what": each.promise,
        }
        for each in report.checks
    ]
    write_table(rows, ("check", "looked_at", "violations", "what"), "")
    for name, count in report.notes.items():
        say(f"{count:,} {name.replace('_', ' ')}")
    if report.head is not None:
        say(f"head {report.head.number}:{report.head.sha256.hex()}")
    say()
    for violation in report.violations[:_SHOWN]:
        say(_line(violation))
    if len(report.violations) > _SHOWN:
        say(f"… and {len(report.violations) - _SHOWN:,} more: --json has all of them")
    say("Nothing is wrong." if not report.violations else "The promise is broken.")


def _line(violation: Violation) -> str:
    about = []
    if violation.event_id is not None or violation.inbox_id is not None:
        about.append(f"event {cell(violation.event_id)} (inbox id {cell(violation.inbox_id)})")
    if violation.seal is not None:
        about.append(f"seal {violation.seal}")
    if violation.offset is not None:
        about.append(f"{violation.topic}/{violation.partition} at {violation.offset}")
    place = ", ".join(about)
    return f"{violation.check}: {place + ': ' if place else ''}{violation.error}"
