"""Rules of the product broken on purpose, one at a time, to see that the rig turns red.

A process that the rig starts with ``FAULTS_MUTANT`` in its environment patches itself before it
serves (see `hooks/sitecustomize.py`). ``python -m tests.faults.mutants`` runs the rig once for each
of them, with the faults that the broken rule is there for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec


class Mutant(msgspec.Struct, frozen=True):
    """A rule, how it is broken, and what to attack for it to show."""

    rule: str
    patch: Callable[[], None]
    attacks: Sequence[str]
    sign: str
    """What one of the violations has to say."""
    seconds: int = 60


def _answers_before_commit() -> None:
    from relay.receiver import commit

    async def put(self: commit.GroupCommit, event: Any) -> bool:
        import asyncio

        waiting = asyncio.ensure_future(_put(self, event))
        waiting.add_done_callback(lambda done: done.exception())
        return True

    _put = commit.GroupCommit.put
    commit.GroupCommit.put = put  # type: ignore[method-assign]


def _commits_asynchronously() -> None:
    from relay.receiver import commit

    commit._BEGIN = commit._BEGIN.replace(  # type: ignore[misc]
        "synchronous_commit = on", "synchronous_commit = off"
    )


def _settles_before_the_report() -> None:
    from relay.forwarder.delivery import Delivery
    from relay.kafka import Acknowledged

    async def land(self: Delivery, flight: Any, window: Any) -> None:
        flight.reports[:] = [
            Acknowledged(0, number) if report is None else report
            for number, report in enumerate(flight.reports)
        ]

    Delivery._land = land  # type: ignore[method-assign]


def _settles_whole_batches() -> None:
    from relay.forwarder.delivery import Delivery
    from relay.kafka import Acknowledged, Failure

    async def land(self: Delivery, flight: Any, window: Any) -> None:
        await _land(self, flight, window)
        if any(isinstance(report, Acknowledged) for report in flight.reports):
            flight.reports[:] = [
                Acknowledged(report.partition, 0) if isinstance(report, Failure) else report
                for report in flight.reports
            ]

    _land = Delivery._land
    Delivery._land = land  # type: ignore[method-assign]


def _locks_no_lanes() -> None:
    from relay.store import queue

    queue._LOCK_LANES = queue._LOCK_LANES.replace("FOR NO KEY UPDATE OF l SKIP LOCKED", "")


def _reads_rows_with_the_locks() -> None:
    """The rows are those of the locking statement's snapshot, which may show settled ones.

    With a moment between the snapshot and the locks, as on a busy server.
    """
    from relay.store import queue
    from relay.store.queue import QueueRow

    moment = "FROM (SELECT pg_sleep(0.02) OFFSET 0) moment CROSS JOIN relay.lane l"
    limit = queue._LOCK_LANES.rstrip().replace("FROM relay.lane l", moment)
    lanes = "unnest($1::int[], $2::smallint[]) AS l (source_id, lane)"
    rows = queue._READ_LANES.replace(lanes, "locked AS l").replace("LIMIT $3", "LIMIT 60")
    together = f"WITH locked AS MATERIALIZED ({limit}) {rows}"
    found: dict[Any, list[QueueRow]] = {}

    async def lock_lanes(pg: Any, start: tuple[int, int], limit: int) -> list[tuple[int, int]]:
        found[pg] = [QueueRow(*row) for row in await pg.fetch(together, *start, limit)]
        if not found[pg]:
            found[pg] = [QueueRow(*row) for row in await pg.fetch(together, 0, 0, limit)]
        return sorted({(row.source_id, row.lane) for row in found[pg]})

    async def read_lanes(pg: Any, lanes: Any, rows_per_lane: int) -> list[QueueRow]:
        return found.pop(pg)

    queue.lock_lanes, queue.read_lanes = lock_lanes, read_lanes


def _has_no_fence() -> None:
    """Who loses its transaction leaves its records on their way, and nobody waits for them."""
    from relay.forwarder.forwarder import Forwarder
    from relay.store import queue

    async def abandon(
        self: Forwarder, note_id: Any, error: BaseException, *, sending: bool
    ) -> None:
        self._shared.orphan_notes.add(note_id)

    async def find_dead_notes(pg: Any, fence_seconds: float) -> Any:
        return await _find_dead_notes(pg, 0.0)

    _find_dead_notes = queue.find_dead_notes
    Forwarder._abandon = abandon  # type: ignore[method-assign]
    queue.find_dead_notes = find_dead_notes
    for name in ("_LOCK_LANES", "_READ_LANES"):
        statement = getattr(queue, name)
        setattr(
            queue,
            name,
            statement.replace(
                "FROM relay.batch_note n,", "FROM (SELECT * FROM relay.batch_note LIMIT 0) n,"
            ),
        )


def _writes_no_note() -> None:
    from relay.store import queue

    async def write_note(*_: Any) -> None:
        return

    queue.write_note = write_note  # type: ignore[assignment]


def _does_not_deduplicate() -> None:
    from relay.store import inbox

    inbox._PUT = inbox._PUT.replace(
        "SELECT given.* FROM given JOIN keyed ON keyed.inbox_id = given.id",
        "SELECT given.* FROM given",
    )


def _commits_the_cursor_first() -> None:
    """The page's rows follow in a transaction of their own, half a second later."""
    import asyncio
    from types import SimpleNamespace

    from relay.snapshotter import snapshotter
    from relay.snapshotter.snapshotter import Snapshotter
    from relay.store import inbox

    pages: dict[Any, list[Any]] = {}

    async def put(pg: Any, events: Any) -> list[bool]:
        pages[asyncio.current_task()] = list(events)
        return [True] * len(events)

    async def run_once(self: Snapshotter) -> int:
        done = await _run_once(self)
        events = pages.pop(asyncio.current_task(), [])
        if events:
            await asyncio.sleep(0.5)
            async with self._shared.database.driver() as pg, pg.transaction():
                await inbox.put(pg, events)
        return done

    _run_once = Snapshotter.run_once
    vars(snapshotter)["inbox"] = SimpleNamespace(**{**vars(inbox), "put": put})
    Snapshotter.run_once = run_once  # type: ignore[method-assign]


MUTANTS: Final[Mapping[str, Mutant]] = {
    "answers_before_commit": Mutant(
        "2xx only after the commit",
        _answers_before_commit,
        ["kill_receiver", "postgres_crash"],
        "was answered 2xx and is not in the inbox",
    ),
    "commits_asynchronously": Mutant(
        "synchronous_commit is on",
        _commits_asynchronously,
        ["postgres_crash", "postgres_failover"],
        "was answered 2xx and is not in the inbox",
    ),
    "settles_before_the_report": Mutant(
        "settled only by the delivery report",
        _settles_before_the_report,
        ["kill_broker"],
        "there is no record at",
    ),
    "settles_whole_batches": Mutant(
        "a batch with a failed record is not settled whole",
        _settles_whole_batches,
        ["freeze_broker", "authorization_refused"],
        " at ('rig-",
    ),
    "locks_no_lanes": Mutant(
        "lanes are locked", _locks_no_lanes, ["burst"], "no fault explains it"
    ),
    "reads_rows_with_the_locks": Mutant(
        "rows are read after their lanes are locked",
        _reads_rows_with_the_locks,
        ["burst"],
        "no fault explains it",
    ),
    "has_no_fence": Mutant(
        "lanes of a lost batch rest",
        _has_no_fence,
        ["pause_forwarder_without_database"],
        "which was answered",
    ),
    "writes_no_note": Mutant(
        "a note before a batch", _writes_no_note, ["crash_transform"], "has to be dead"
    ),
    "does_not_deduplicate": Mutant(
        "an event is stored once",
        _does_not_deduplicate,
        ["kill_receiver", "client_receiver_half_open"],
        "is in the inbox",
    ),
    "commits_the_cursor_first": Mutant(
        "page and cursor in one transaction",
        _commits_the_cursor_first,
        ["kill_snapshotter"],
        "are not there once",
    ),
}


def apply(name: str) -> None:
    """Break a rule in this process."""
    MUTANTS[name].patch()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", action="append", choices=sorted(MUTANTS), metavar="MUTANT")
    options = parser.parse_args()
    green = []
    for name in options.only or MUTANTS:
        mutant = MUTANTS[name]
        began = time.monotonic()
        told = _run(name, mutant, options.seed)
        signs = [line for line in told if mutant.sign in line]
        if not signs:
            green.append(name)
        print(
            f"{'red' if signs else 'GREEN':5}  {mutant.rule}"
            f"  ({name}, {time.monotonic() - began:.0f} s):"
            f" {len(signs)} of {len(told)} violations: {(signs or told or ['none'])[0]}",
            flush=True,
        )
    if green:
        print(f"The rig does not see: {', '.join(green)}")
        sys.exit(1)


def _run(name: str, mutant: Mutant, seed: int) -> list[str]:
    """The violations that the rig told."""
    command = [sys.executable, "-m", "tests.faults", "--seed", str(seed), "--mutant", name]
    command += ["--seconds", str(mutant.seconds), "--all"]
    for each in mutant.attacks:
        command += ["--only", each]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    verdict = next((n for n, line in enumerate(lines) if " violations in " in line), None)
    if verdict is None:
        raise SystemExit(f"the rig did not come to a verdict with {name}:\n{done.stdout[-4000:]}")
    return [line.strip() for line in lines[verdict + 1 :] if line.startswith("  ")]


if __name__ == "__main__":
    main()
