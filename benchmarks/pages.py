"""How long the pages of the dashboard and the lists of its API take on a large inbox, over HTTP.

One client asks one page after the other, each several times with other ids, places and filters, of
a process that has the role `admin` alone. Nothing is received or forwarded meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import asyncpg
import httpx
from rich.console import Console
from rich.table import Table

from benchmarks import figures, past
from benchmarks.parts import (
    POSTGRES_SETTINGS,
    Options,
    free_port,
    new_database,
    server_process,
    wait_for_port,
)
from benchmarks.past import HOT, RARE, Past
from relay.dev.postgres import EmbeddedPostgres
from relay.store import schema
from relay.store.sealing import new_key

GOAL_MS = 300
"""95 of 100 shall be answered within it."""
TIMES = 40
_DATABASE = "bench_pages"
# The overview is read anew after this time at the earliest; so few, because each is waited for.
_OVERVIEW_SECONDS = 4.5
_OVERVIEWS = 6
_TOKEN = {"authorization": "Bearer any"}

Path_ = Callable[[int], str]
"""The path that is asked for the so-manieth time."""


class Figure(NamedTuple):
    """Milliseconds, and what was answered."""

    name: str
    p50: float
    p95: float
    longest: float
    statuses: list[int]
    """All that there were; a look that took too long ends in a 400."""

    @property
    def is_met(self) -> bool:
        return self.p95 <= GOAL_MS and max(self.statuses) < 400


class _Event(NamedTuple):
    inbox_id: int
    event_id: str
    object_id: str
    received_at: str


async def run(options: Options) -> None:
    rows = options.events(options.stored)
    with _server(options.data) as server:
        url, stored = await _inbox(server, rows)
        pg = await asyncpg.connect(url)
        try:
            paths = _paths(stored, await _some(pg, stored))
        finally:
            await pg.close()
        port = free_port()
        environment = {
            "RELAY_DATABASE_URL": url,
            "RELAY_ENCRYPTION_KEYS": new_key(),
            "RELAY_ADMIN_BIND": f"127.0.0.1:{port}",
            "RELAY_LOG_LEVEL": "error",
        }
        with server_process(["relay", "serve", "--roles", "admin"], environment):
            await wait_for_port(port)
            found = await _measure(f"http://127.0.0.1:{port}", paths)
    _report(stored.rows, found)


@contextmanager
def _server(data: str | None) -> Iterator[EmbeddedPostgres]:
    """On a directory that is kept, or on one that is not."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
        place = Path(data or directory) / "pg"
        with EmbeddedPostgres(place, settings=POSTGRES_SETTINGS) as server:
            yield server


async def _inbox(server: EmbeddedPostgres, rows: int) -> tuple[str, Past]:
    """One with so many events: that of an earlier run, or a new one."""
    url = server.url(_DATABASE)
    pg = await asyncpg.connect(server.dsn)
    there = await pg.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE)
    await pg.close()
    if there:
        pg = await asyncpg.connect(url)
        stored = await past.read(pg)
        await pg.close()
        if stored.rows == rows:
            return url, stored
    started = time.monotonic()
    url = await new_database(server.dsn, _DATABASE)
    await schema.migrate(url)
    stored = await past.fill(url, rows)
    figures.say(f"{rows:,} events were stored in {time.monotonic() - started:.0f} s")
    return url, stored


async def _some(pg: asyncpg.Connection, stored: Past) -> list[_Event]:
    """Events from everywhere, the same in each run."""
    chosen = Random(1)
    ids = [chosen.randint(stored.first, stored.last) for _ in range(TIMES)]
    rows = await pg.fetch(
        "SELECT id, event_id, object_id, to_char(received_at AT TIME ZONE 'UTC',"
        ' \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') FROM relay.inbox WHERE id = ANY ($1)',
        ids,
    )
    return [_Event(*row) for row in rows]


def _paths(stored: Past, some: list[_Event]) -> dict[str, Path_]:
    def of(n: int) -> _Event:
        return some[n % len(some)]

    def deep(n: int) -> int:
        return of(n).inbox_id

    lists: dict[str, Path_] = {
        "newest": lambda _: "",
        "deep": lambda n: f"before={deep(n)}",
        "event id": lambda n: f"event_id={of(n).event_id}",
        "event id that is not there": lambda n: f"event_id=evt_{n}",
        "object": lambda n: f"object={of(n).object_id}",
        "object with a hundredth of all": lambda _: f"object={HOT}",
        "object with a hundredth of all, deep": lambda n: f"object={HOT}&before={deep(n)}",
        "object that is not there": lambda n: f"object=cus_none_{n}",
        "type": lambda _: "type=invoice.created",
        "type, rare": lambda _: f"type={RARE}",
        "type, wildcard": lambda _: "type=invoice.*",
        "type, wildcard, deep": lambda n: f"type=invoice.*&before={deep(n)}",
        "type that is not there": lambda n: f"type=nothing.{n}",
        "source": lambda _: "source=us",
        "source, small, deep": lambda n: f"source=small&before={deep(n)}",
        "source and type": lambda _: "source=small&type=charge.*",
        "last 2 hours": lambda _: "since=2h",
        "a week, long ago": lambda _: "since=60d&until=53d",
        "until a moment": lambda n: f"until={of(n).received_at}",
        "an hour and a rare type": lambda n: f"until={of(n).received_at}&type={RARE}",
        "state pending": lambda _: "state=pending",
        "state retrying": lambda _: "state=retrying",
        "state dead": lambda _: "state=dead",
        "state skipped": lambda _: "state=skipped",
        "state skipped, deep": lambda n: f"state=skipped&before={deep(n)}",
        "state delivered": lambda _: "state=delivered",
        "state delivered, deep": lambda n: f"state=delivered&before={deep(n)}",
        "state delivered, deep, rare type": lambda n: (
            f"state=delivered&type={RARE}&before={deep(n)}"
        ),
        "state delivered, rare type": lambda _: f"state=delivered&type={RARE}",
        "state skipped, rare type": lambda _: f"state=skipped&type={RARE}",
        "state dead, rare type": lambda _: f"state=dead&type={RARE}",
        "state delivered, object": lambda n: f"state=delivered&object={of(n).object_id}",
        "state delivered, hot object": lambda _: f"state=delivered&object={HOT}",
        "state skipped, hot object": lambda _: f"state=skipped&object={HOT}",
        "state delivered, small source": lambda _: "state=delivered&source=small",
        "state delivered, a week": lambda _: "state=delivered&since=60d&until=53d",
        "state skipped, a week": lambda _: "state=skipped&since=60d&until=53d",
        "error code": lambda _: "error=transform_error",
        "error code of the dead": lambda _: "error=too_large",
        "error code that is not there": lambda n: f"error=none_{n}",
    }
    found: dict[str, Path_] = {}
    for name, query in lists.items():
        found[f"/events: {name}"] = _with("/events", query)
    for name in ("newest", "deep", "type, wildcard", "state delivered, deep"):
        found[f"/api/events, 500 rows: {name}"] = _with("/api/events?limit=500", lists[name])
    return found | {
        "/events/{id}": lambda n: f"/events/{deep(n)}",
        "/events/{id}/body": lambda n: f"/events/{deep(n)}/body",
        "/api/events/{id}": lambda n: f"/api/events/{deep(n)}",
        "/search: an event id": lambda n: f"/search?q={of(n).event_id}",
        "/objects": lambda n: f"/objects?id={of(n).object_id}",
        "/objects: a hundredth of all": lambda _: f"/objects?id={HOT}",
        "/objects: a hundredth of all, deep": lambda n: f"/objects?id={HOT}&before={deep(n)}",
        "/api/objects, 500 rows: a hundredth of all": lambda _: f"/api/objects/{HOT}?limit=500",
        "/dead-letters": lambda _: "/dead-letters",
        "/dead-letters: error code": lambda _: "/dead-letters?error=too_large",
        "/dead-letters: source": lambda _: "/dead-letters?source=small",
        "/dead-letters: deep": lambda n: f"/dead-letters?before={500 + n}",
        "/api/dead-letters, 500 rows": lambda _: "/api/dead-letters?limit=500",
        "/operator-log": lambda _: "/operator-log",
        "/operator-log: deep": lambda n: f"/operator-log?before={(n + 1) * past.ENTRIES // 50}",
        "/api/operator-log, 500 rows": lambda _: "/api/operator-log?limit=500",
        "/replays": lambda _: "/replays",
        "/replays/{id}: of many": lambda n: f"/replays/rpl_{1 + n % 20}",
        "/replays/{id}: of a few": lambda n: f"/replays/rpl_few_{n * 1000 + 2}",
        "/replays/new: dead letters": lambda _: "/replays/new?of=dead-letters",
        "/replays/new: dead letters, error code": lambda _: (
            "/replays/new?of=dead-letters&error=too_large"
        ),
        "/replays/new: all events": lambda _: "/replays/new?of=events",
        "/replays/new: events of an object": lambda n: (
            f"/replays/new?of=events&object={of(n).object_id}"
        ),
        "/replays/new: events, hot object": lambda _: f"/replays/new?of=events&object={HOT}",
        "/replays/new: events of an hour": lambda _: "/replays/new?of=events&since=5h&until=4h",
        "/replays/new: events of a week": lambda _: "/replays/new?of=events&since=60d&until=53d",
        "/replays/new: events of a rare type": lambda _: f"/replays/new?of=events&type={RARE}",
        "/replays/new: skipped events": lambda _: "/replays/new?of=events&state=skipped",
        "/snapshots": lambda _: "/snapshots",
        "/snapshots/{id}": lambda n: f"/snapshots/snapshot_{n + 1}",
        "/snapshots/new": lambda _: "/snapshots/new?source=shop",
        "/: seconds old": lambda _: "/",
    }


def _with(path: str, query: Path_) -> Path_:
    mark = "&" if "?" in path else "?"
    return lambda n: f"{path}{mark}{query(n)}".rstrip("?&")


async def _measure(base_url: str, paths: dict[str, Path_]) -> list[Figure]:
    async with httpx.AsyncClient(base_url=base_url, headers=_TOKEN, timeout=60) as client:
        found = [await _overview(client)]
        for name, path in paths.items():
            found.append(await _figure(client, name, [path(n) for n in range(TIMES)]))
    return found


async def _overview(client: httpx.AsyncClient) -> Figure:
    """The first page when its numbers are read for it."""
    timings = []
    for _ in range(_OVERVIEWS):
        await asyncio.sleep(_OVERVIEW_SECONDS)
        timings.append(await _time(client, "/api/overview"))
    return _of("/: read anew", timings)


async def _figure(client: httpx.AsyncClient, name: str, paths: list[str]) -> Figure:
    timings = []
    for path in paths:
        timings.append(await _time(client, path))
        # What takes seconds each time need not be waited for forty times.
        if len(timings) >= TIMES // 4 and statistics.median(timing for timing, _ in timings) > 1000:
            break
    return _of(name, timings)


async def _time(client: httpx.AsyncClient, path: str) -> tuple[float, int]:
    began = time.perf_counter()
    answer = await client.get(path)
    return (time.perf_counter() - began) * 1000, answer.status_code


def _of(name: str, timings: list[tuple[float, int]]) -> Figure:
    sorted_ms = sorted(timing for timing, _ in timings)
    p95 = sorted_ms[min(len(sorted_ms) - 1, round(len(sorted_ms) * 0.95))]
    found = Figure(
        name,
        statistics.median(sorted_ms),
        p95,
        sorted_ms[-1],
        sorted({status for _, status in timings}),
    )
    figures.say(f"  {name}: p50 {found.p50:.0f} ms, p95 {p95:.0f} ms, {found.statuses}")
    return found


def _report(rows: int, found: list[Figure]) -> None:
    title = f"Pages on {rows:,} events, milliseconds; goal: p95 of at most {GOAL_MS}"
    table = Table(title=title)
    for column in ("", "p50", "p95", "max", "answers", ""):
        table.add_column(column, justify="left" if not column else "right", no_wrap=True)
    for each in found:
        verdict = "met" if each.is_met else "[red]missed[/red]"
        times = (f"{value:.0f}" for value in (each.p50, each.p95, each.longest))
        table.add_row(each.name, *times, ", ".join(map(str, each.statuses)), verdict)
    Console(width=120).print(table)
    figures.keep(
        "pages",
        {
            "title": title,
            "unit": "ms",
            "goal": GOAL_MS,
            "figures": [each._asdict() | {"met": each.is_met} for each in found],
        },
    )
