"""`relay doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.output import write_json
from relay.display import printable

if TYPE_CHECKING:
    from relay.doctor import Result, Verdict

_COLOURS = {"failed": "red", "warning": "yellow", "skipped": "bright_black", "ok": "green"}
GROUPS = {
    "settings": "Settings",
    "postgres": "PostgreSQL",
    "kafka": "Kafka",
    "clock": "Clock",
    "sources": "Sources",
    "stripe": "Stripe",
    "services": "Services",
}
_MARK, _NAME, _ENDLESS = 9, 18, 1_000_000


@click.command(short_help="What is wrong, and what to do about it.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings as well.")
@common
@coroutine
async def doctor(call: Call, strict: bool) -> None:
    """Examine settings, PostgreSQL, Kafka, Stripe, sources and clocks, and print the configuration.

    Changes nothing. Exits with 1 when a check failed, and with 0 otherwise.
    """
    from relay import doctor as clinic
    from relay import logs
    from relay.settings import effective

    settings, complaints = clinic.load_what_can_be(call.environ)
    logs.configure(settings.log_format, settings.log_level, settings.secrets())
    patient = clinic.Patient(settings, complaints, development=call.is_of_dev)
    try:
        results = await clinic.examine(patient)
    finally:
        await patient.close()
    configuration = effective(settings)
    verdict = clinic.overall(results)
    if call.json:
        write_json({"verdict": verdict, "checks": results, "configuration": configuration})
    else:
        _write_configuration(configuration)
        _write_results(results)
        _write_summary(results)
    if verdict == "failed" or (strict and verdict == "warning"):
        raise click.exceptions.Exit(1)


def _write_configuration(configuration: dict[str, str]) -> None:
    from relay.settings import Settings, effective

    usual = effective(Settings())
    width = max(map(len, configuration)) + 2
    click.secho("Configuration", bold=True)
    for name, value in configuration.items():
        line = f"  {name:<{width}}{printable(value) or '-'}"
        click.secho(line, dim=value == usual.get(name))


def _write_results(results: list[Result]) -> None:
    for group, members in itertools.groupby(results, lambda each: each.name.partition(".")[0]):
        click.secho(f"\n{GROUPS[group]}", bold=True)
        for reason, alike in itertools.groupby(members, _why_not):
            rest = list(alike)
            if reason is not None and len(rest) > 1:
                _write("skipped", f"{len(rest)} checks", reason, None)
                continue
            for each in rest:
                _write(each.verdict, each.name.partition(".")[2], each.reason, each.fix)


def _why_not(result: Result) -> str | None:
    """Of what was skipped, the reason: one line is enough for all that needed the same."""
    return result.reason if result.verdict == "skipped" and result.fix is None else None


def _write(verdict: Verdict, name: str, reason: str, fix: str | None) -> None:
    mark = click.style(f"{verdict:<{_MARK}}", fg=_COLOURS[verdict])
    column = 2 + _MARK + _NAME
    _write_folded(f"  {mark}{name:<{_NAME}}", reason, column)
    if fix is not None:
        _write_folded(" " * column + "→ ", fix, column + 2)


def _write_folded(start: str, text: str, column: int) -> None:
    """A text behind a start, its further lines below its first; a pipe gets one line."""
    import shutil
    import sys
    import textwrap

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _ENDLESS
    lines = textwrap.wrap(
        printable(text), max(width - column, 40), break_long_words=False, break_on_hyphens=False
    )
    click.echo(start + ("\n" + " " * column).join(lines))


def _write_summary(results: list[Result]) -> None:
    from relay.doctor import VERDICTS

    names = {verdict: [r.name for r in results if r.verdict == verdict] for verdict in VERDICTS}
    click.echo()
    for verdict in ("failed", "warning"):
        for name in dict.fromkeys(names[verdict]):
            click.secho(f"{verdict:<{_MARK}}{name}", fg=_COLOURS[verdict])
    counts = {
        "failed": len(names["failed"]),
        "warnings": len(names["warning"]),
        "skipped": len(names["skipped"]),
        "ok": len(names["ok"]),
    }
    click.secho(", ".join(f"{count} {word}" for word, count in counts.items()), bold=True)
