"""What `relay demo` found, for people and for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.dev.evidence import DeadLetters, Evidence
from relay.dev.traffic import CONNECTIONS
from relay.dev.verdict import Check, Facts, check, repeats

_SHOWN: Final = 20

QUERIES: Final = (
    ("how it goes, source by source", "SELECT * FROM relay.lag;"),
    ("what is in which state", "SELECT state, count(*) FROM relay.events GROUP BY 1;"),
    (
        "the life of one object",
        "SELECT id, event_type, state, received_at FROM relay.events\n"
        "WHERE object_id = 'cus_123' ORDER BY id;",
    ),
    (
        "where an event went",
        'SELECT topic, partition, "offset", key, op, produced_at FROM relay.deliveries\n'
        "WHERE event_id = 'evt_123';",
    ),
    (
        "what will not be retried, and why",
        "SELECT source, event_type, error_code, error FROM relay.dead_letters;",
    ),
)
"""The first ones to try, each with what it tells."""


class Topic(msgspec.Struct, frozen=True):
    """What stands in one topic."""

    topic: str
    records: int
    tombstones: int
    keys: int


class Figures(msgspec.Struct, frozen=True):
    """Seconds, of one client on this machine beside everything else."""

    receiving_seconds: float
    received_per_second: float
    forwarding_seconds: float
    forwarded_per_second: float
    """Events through, from the first request to the last receipt."""
    request_to_record_p50_seconds: float
    request_to_record_p99_seconds: float


class Summary(msgspec.Struct, frozen=True):
    """The whole demo; ``missing`` lists everything that is not as it should be."""

    ok: bool
    seconds: float
    listed: int
    """Objects that the Stripe API lists, of which a snapshot was taken."""
    requests: int
    accepted: int
    duplicates: int
    refused: int
    states: dict[str, int]
    records: int
    repeats: int
    topics: tuple[Topic, ...]
    dead_letters: tuple[DeadLetters, ...]
    figures: Figures | None
    checks: tuple[Check, ...]
    missing: tuple[str, ...]


def summarize(facts: Facts, seconds: float) -> Summary:
    """Count, and check. ``seconds`` is the wall time of all of it."""
    checks = check(facts)
    missing = [violation for each in checks for violation in each.violations]
    answers = [answer for sent in facts.sent for answer in sent.answers]
    return Summary(
        ok=not missing,
        seconds=round(seconds, 3),
        listed=len(facts.listed),
        requests=len(answers),
        accepted=sum(sent.answered is not None for sent in facts.sent),
        duplicates=sum(answer.duplicate for answer in answers),
        refused=sum(not answer.accepted for answer in answers),
        states=dict(Counter(row.state for rows in facts.rows.values() for row in rows)),
        records=len(facts.evidence.standing),
        repeats=repeats(facts.evidence),
        topics=_topics(facts.evidence),
        dead_letters=facts.evidence.dead_letters,
        figures=_figures(facts),
        checks=tuple(checks),
        missing=tuple(missing),
    )


def _topics(evidence: Evidence) -> tuple[Topic, ...]:
    records: Counter[str] = Counter()
    tombstones: Counter[str] = Counter()
    keys: dict[str, set[bytes | None]] = {}
    for standing in evidence.standing:
        topic = standing.place[0]
        records[topic] += 1
        tombstones[topic] += standing.content is None
        keys.setdefault(topic, set()).add(standing.key)
    return tuple(
        Topic(name, records[name], tombstones[name], len(keys[name])) for name in sorted(records)
    )


def _figures(facts: Facts) -> Figures | None:
    began = {
        (sent.source, sent.event_id): sent.began for sent in facts.sent if sent.answered is not None
    }
    rows = {row.inbox_id: (row.source, row.event_id) for row in facts.evidence.rows}
    settled: dict[tuple[str, str], float] = {}
    for receipt in facts.evidence.receipts:
        event = rows.get(receipt.inbox_id)
        if event in began:
            settled[event] = max(settled.get(event, 0.0), receipt.produced_at.timestamp())
    if not settled:
        return None
    first = min(began.values())
    receiving = max(sent.answered or 0.0 for sent in facts.sent) - first
    forwarding = max(settled.values()) - first
    times = sorted(at - began[event] for event, at in settled.items())
    return Figures(
        receiving_seconds=round(receiving, 3),
        received_per_second=round(len(began) / max(receiving, 1e-3), 1),
        forwarding_seconds=round(forwarding, 3),
        forwarded_per_second=round(len(settled) / max(forwarding, 1e-3), 1),
        request_to_record_p50_seconds=_quantile(times, 0.50),
        request_to_record_p99_seconds=_quantile(times, 0.99),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return round(max(0.0, ordered[min(len(ordered) - 1, int(len(ordered) * share))]), 4)


def write_json(summary: Summary) -> None:
    """One object on stdout; ASCII only, so that nothing in it is a command to a terminal."""
    builtins: Any = msgspec.to_builtins(summary)
    print(json.dumps(builtins, indent=2).replace("\x7f", "\\u007f"), flush=True)


def write(summary: Summary) -> None:
    """For people, on stdout."""
    console = Console(highlight=False)
    console.width = max(console.width, 100)
    _write_tables(console, summary)
    _write_figures(console, summary)
    console.print("\nChecked from outside, against what was sent:")
    for each in summary.checks:
        word = Text("  FAILED ", "bold red") if each.violations else Text("  ok     ", "green")
        console.print(word, Text(f"{each.count:>6,} {each.promise}"), sep="")
    if summary.ok:
        console.print(Text("\nNothing is missing.", "bold green"))
        _write_queries(console)
        return
    console.print(Text(f"\n{len(summary.missing):,} things are not as they should be:", "bold red"))
    for line in summary.missing[:_SHOWN]:
        console.print(Text(f"  {line}"), soft_wrap=True)
    if len(summary.missing) > _SHOWN:
        console.print(f"  and {len(summary.missing) - _SHOWN:,} more, which --json lists")


def _write_tables(console: Console, summary: Summary) -> None:
    topics = Table("topic", box=None, header_style="bold", pad_edge=False)
    for name in ("records", "tombstones", "keys"):
        topics.add_column(name, justify="right")
    for topic in summary.topics:
        topics.add_row(
            Text(topic.topic),
            f"{topic.records:,}",
            f"{topic.tombstones:,}" if topic.tombstones else "-",
            f"{topic.keys:,}",
        )
    _print_table(console, topics)
    letters = Table("dead letter", box=None, header_style="bold", pad_edge=False)
    letters.add_column("count", justify="right")
    letters.add_column("what it is")
    for letter in summary.dead_letters:
        what = (
            "answered 200 and kept: in the inbox, in relay.dead_letters and on its topic"
            if letter.stored
            else "refused with 400, never stored; a sample for whoever looks for the mistake"
        )
        letters.add_row(Text(letter.code), f"{letter.count:,}", what)
    _print_table(console, letters)


def _print_table(console: Console, table: Table) -> None:
    """Without the blanks that fill its last column."""
    with console.capture() as captured:
        console.print(table)
    print()
    for line in captured.get().splitlines():
        print(line.rstrip())


def _write_figures(console: Console, summary: Summary) -> None:
    states = ", ".join(f"{count:,} {state}" for state, count in sorted(summary.states.items()))
    console.print(
        f"\n{summary.requests:,} requests: {summary.accepted:,} events accepted ({states}),"
        f" {summary.duplicates:,} duplicates, {summary.refused:,} refused",
        soft_wrap=True,
    )
    if summary.listed:
        console.print(f"{summary.listed:,} objects of the Stripe API, read by a snapshot beside it")
    figures = summary.figures
    if figures is not None:
        console.print(
            f"received   {figures.received_per_second:,.0f} events/s"
            f" (one client, {CONNECTIONS} connections)\n"
            f"forwarded  {figures.forwarded_per_second:,.0f} events/s"
            f" as {summary.records:,} records, from the first request to the last receipt\n"
            f"request to receipt  p50 {figures.request_to_record_p50_seconds * 1000:,.0f} ms,"
            f" p99 {figures.request_to_record_p99_seconds * 1000:,.0f} ms",
            soft_wrap=True,
        )


def _write_queries(console: Console) -> None:
    console.print("\nThe inbox is SQL. Start `relay dev`, which keeps one, and try:")
    for tells, query in QUERIES:
        console.print(Text(f"\n-- {tells}", "dim"))
        console.print(Text(query), soft_wrap=True)
