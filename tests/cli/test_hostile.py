"""Whatever strangers have put into events and errors, a terminal shows it and does not obey it."""

from __future__ import annotations

import re

import asyncpg
import pytest

from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, event, output
from tests.cli.test_dlq import refuse
from tests.cli.test_events import deliver, park

# Sets a title, moves the cursor, turns the line around, writes a line of its own; no mark-up.
EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\nFORGED [red]x[/red]"
# All that moves something, line feeds excepted; C1 and the marks of direction, too.
RAW = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]|^FORGED", re.M
)
OBJECT = f"cus_{EVIL}"


@pytest.fixture
async def world(relay: Relay, receive: Receive, database: Database) -> dict[str, str]:
    """An event in each state, a snapshot that failed and replays, evil wherever it can be."""
    await relay("source", "create", "acme", "--insecure", "--stripe-api-key", "rk_test_1")
    made = [event(f"evt_{n}", f"customer.{EVIL}", id=OBJECT, n=EVIL) for n in range(4)]
    pending, failing, sent = await receive("acme", *made[:3])
    await receive("acme", made[3] | {"id": EVIL}, dead=EVIL)
    await park(database, failing, attempts=2, code=EVIL)
    await deliver(database, sent)
    await refuse(database, code=EVIL)
    async with database.driver() as pg:
        await pg.execute(
            "UPDATE relay.source SET halted_at = now(), halted_code = $1, halted_error = $1,"
            " halted_number = $2",
            EVIL,
            pending,
        )
        await _failed_snapshot(pg)
        letters = await pg.fetch("SELECT id FROM relay.dead_letter ORDER BY id")
    await relay("events", "replay", "evt_2", "--reason", EVIL)
    await relay("dlq", "replay", "--error", EVIL, "--yes", "--reason", EVIL)
    (replay, *_) = output(await relay("replays", "list", "--json"))
    return {"dead": str(letters[0]["id"]), "sample": str(letters[1]["id"])} | {
        "replay": replay["replay_id"]
    }


async def _failed_snapshot(pg: asyncpg.Connection) -> None:
    await pg.execute(
        "INSERT INTO relay.snapshot (id, source_id, state, last_error)"
        " SELECT 'snp_1', id, 'failed', $1 FROM relay.source",
        EVIL,
    )
    await pg.execute(
        "INSERT INTO relay.snapshot_range (snapshot_id, resource, state, last_error)"
        " VALUES ('snp_1', 'customer', 'failed', $1)",
        EVIL,
    )


async def test_no_command_writes_it_raw(relay: Relay, world: dict[str, str]) -> None:
    commands: list[tuple[str, ...]] = [
        ("events", "list"),
        ("events", "list", "--error", EVIL),
        ("events", "show", "evt_0"),
        ("events", "show", "evt_1"),
        ("events", "retry", "--error", EVIL, "--dry-run"),
        ("events", "skip", "--object", OBJECT, "--dry-run"),
        ("events", "replay", "--object", OBJECT, "--dry-run"),
        ("dlq", "list", "--all"),
        ("dlq", "show", world["dead"]),
        ("dlq", "show", world["sample"]),
        ("dlq", "replay", world["sample"], "--dry-run"),
        ("dlq", "discard", "--error", EVIL, "--dry-run"),
        ("replays", "list"),
        ("replays", "show", world["replay"]),
        ("redact", OBJECT, "--reason", EVIL, "--dry-run"),
        ("snapshot", "list"),
        ("snapshot", "show", "snp_1"),
        ("source", "list"),
        ("source", "show", "acme"),
        ("status",),
        ("audit",),
    ]
    written = ""
    for args in commands:
        for json in ((), ("--json",)):
            exits = 1 if args[-1] == "--dry-run" and world["sample"] in args else 0
            result = await relay(*args, *json, exits=exits)
            assert not RAW.search(result.stdout), args
            assert not RAW.search(result.stderr), args
            written += result.stdout + result.stderr
    # It was there, as it is written for people.
    assert written.count("\\x1b]0;owned") > 20


async def test_nor_does_an_error(relay: Relay, world: dict[str, str]) -> None:
    for args in (
        ("events", "show", EVIL + "?"),
        ("events", "retry", EVIL + "?"),
        ("events", "replay", EVIL + "?"),
        ("dlq", "replay", EVIL + "?"),
        ("dlq", "replay", "--resume", EVIL),
        ("replays", "show", EVIL),
        ("redact", OBJECT, "--reason", "asked to"),
        ("snapshot", "show", EVIL),
        ("events", "list", "--source", EVIL),
    ):
        exits = 2 if args[0] in ("redact", "snapshot") or "--source" in args else 1
        failed = await relay(*args, exits=exits)
        assert not RAW.search(failed.output), args
        assert "\\x1b]0;owned" in failed.stderr
