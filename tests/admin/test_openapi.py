"""Whatever a program can send to the API is answered as ``/schema`` says, and never by a 5xx.

Schemathesis makes the requests out of the schema: what it allows, and what it does not. They are
the same in each run. `make fuzz-api` makes more of them, others each time (EXAMPLES=n, SEED=n).

- RELAY_TEST_API_EXAMPLES: how many for each operation, beside those at the limits of the schema.
- RELAY_TEST_API_SEED: which ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from relay.admin.access import Throttle
from relay.dev.stripe_api import FakeStripe
from relay.store import deadletters, replays
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from tests.admin.with_stripe import add_source, settings_beside
from tests.admin.world import OPERATOR, VIEWER, Served, served
from tests.store.rows import bury, deliver, fail, leave_out, new_event, store

EXAMPLES = os.environ.get("TESTS_API_EXAMPLES", "20")
SEED = os.environ.get("TESTS_API_SEED")
_SECONDS = 3600
SNAPSHOTS = (*["running"] * 12, "paused", "failed", "finished")
# What is not possible in the state that it is in was understood, too.
DONE = {200, 201, 202, 409}
# Settings that are drawn one by one seldom fit together; tests/admin/test_sources.py has those
# that do.
RARE = {"POST /api/sources", "PATCH /api/sources/{name}"}
OF_OPERATORS = {"GET /api/events/{inbox_id}/records"}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
)

# What is drawn now and then where the schema asks for any text.
_ODD = (
    "\0",
    "a\0b",
    "\u202e",
    "%00",
    "%",
    "*",
    "_",
    "\\",
    "'",
    "9223372036854775807",
    "9223372036854775808",
    "-1",
    "1" * 30,
    "0x10",
    "٣",
    "1e9",
    "2h",
    "999999999d",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "infinity",
    "2026-02-30T00:00:00Z",
    "2026-11-24T18:00:00",
    "x" * 5000,
)


@pytest_asyncio.fixture
async def api(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """With a key of Stripe that snapshots can be started with."""
    # Wrong tokens are among what is tried.
    monkeypatch.setattr(Throttle, "MOST", 1_000_000)
    monkeypatch.setattr(Throttle, "_PAUSE_SECONDS", 0.0)
    async with (
        FakeStripe({"customer": 5}) as stripe,
        served(database_url, **settings_beside(stripe)) as made,
    ):
        yield made


async def _fill(database: Database, pg: asyncpg.Connection) -> dict[str, list[str]]:
    """Events in all states, refused requests, replays and snapshots: what there is, by parameter.

    None of the ids is drawn by lot, so that the requests are the same in each run.
    """
    ids: list[int] = []
    for name in ("shop", "eu"):
        ids += await _events(pg, await add_source(database, name, "customer"), name)
    # For what is done to sources, deletion included.
    spare = [f"spare_{number}" for number in range(8)]
    for name in spare:
        await add_source(database, name, "customer")
    await pg.execute(
        "INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, refused_body)"
        " SELECT id, 'signature_invalid', 'no', 0, 'x' FROM relay.source"
    )
    await _replays(database)
    for number, state in enumerate(SNAPSHOTS):
        await pg.execute(_SNAPSHOT, f"snap_{number}", state)
    return {
        "path.inbox_id": list(map(str, ids)),
        "path.object_id": ["cus_1", "gold/monthly", "cus_none"],
        "path.replay_id": ["rpl_events", "rpl_letters", "rpl_none"],
        "path.name": spare,
        "path.snapshot_id": [f"snap_{number}" for number in range(len(SNAPSHOTS))],
        "query.event_id": ["evt_shop_0", "evt_none"],
        "query.type": ["customer.*", "customer.updated"],
        "query.object": ["cus_1"],
        "query.state": ["pending", "retrying", "dead", "skipped", "delivered"],
        "query.error": ["too_large", "transform_error"],
        "query.source": ["shop", "eu"],
        "query.since": ["2h", "2026-01-01T00:00:00Z"],
        "query.until": ["1s", "2030-01-01T00:00:00Z"],
        "query.before": list(map(str, ids)),
        "query.limit": ["1", "500"],
        "body.reason": ["mended"],
        "body.name": [f"new_{number}" for number in range(30)],
        "body.confirm": spare,
        "body.grace": ["24h", "0"],
        "body.source": ["shop", "eu"],
        "body.state": ["delivered", "skipped"],
        "body.since": ["2h"],
        "body.created_after": ["2026-01-01T00:00:00Z"],
        "body.created_before": ["2027-01-01T00:00:00Z"],
    }


async def _events(pg: asyncpg.Connection, source_id: int, name: str) -> list[int]:
    ids = await store(pg, *(new_event(source_id, f"evt_{name}_{n}") for n in range(30)))
    for inbox_id in ids[:4]:
        await deliver(pg, inbox_id)
    for inbox_id in ids[4:6]:
        await leave_out(pg, inbox_id)
    for inbox_id in ids[6:10]:
        await fail(pg, inbox_id)
    await bury(pg, *ids[10:26])
    odd = new_event(source_id, f"evt_{name}_odd", object_id="gold/monthly", body=b"\xff\x00")
    return [*ids, *await store(pg, odd)]


async def _replays(database: Database) -> None:
    operator = Operator("ana", "mended")
    async with database.begin() as connection:
        choice = replays.Choice(Filter(state="delivered"))
        events = await replays.begin(connection, choice, 8, operator)
        letters = await deadletters.begin(
            connection, await deadletters.prepare(connection, Filter()), operator, background=True
        )
    async with database.driver() as pg:
        await pg.execute("ALTER TABLE relay.operator_log DISABLE TRIGGER USER")
        for made, name in ((events, "rpl_events"), (letters, "rpl_letters")):
            await pg.execute(
                "UPDATE relay.operator_log SET target = $2,"
                " details = jsonb_set(details, '{replay_id}', to_jsonb($2::text))"
                " WHERE target = $1",
                made.replay_id,
                name,
            )
        await pg.execute("ALTER TABLE relay.operator_log ENABLE TRIGGER USER")


_SNAPSHOT = """
WITH made AS (
    INSERT INTO relay.snapshot (id, source_id, state, resources, livemode)
    SELECT $1, min(id), $2, '{customer}', false FROM relay.source RETURNING id
)
INSERT INTO relay.snapshot_range (snapshot_id, resource, state) SELECT id, 'customer', $2 FROM made
"""


def _configuration(values: dict[str, list[str]]) -> str:
    """What there is in most of the cases, odd texts in some of them, and otherwise anything."""
    lines = []
    for number, known in enumerate(values.values()):
        lines += [f"[dictionaries.known_{number}]", f"values = {json.dumps(known)}"]
    lines += ["[parameters]"]
    for number, name in enumerate(values):
        probability = 0.8 if name.startswith("path") else 0.5
        binding = f'{{ dictionary = "known_{number}", probability = {probability} }}'
        lines.append(f"{json.dumps(name)} = {binding}")
    lines += [
        "[dictionaries.odd]",
        f"values = {json.dumps(_ODD)}",
        "[generation]",
        'dictionaries = { string = { dictionary = "odd", probability = 0.2 } }',
        "[phases.fuzzing]",
        "extra-data-sources = { responses = false }",
        "error-feedback = { enabled = false }",
        "[phases.coverage]",
        "extra-data-sources = { responses = false }",
    ]
    return "\n".join(lines) + "\n"


def _command(dashboard: Served, token: str, directory: Path) -> list[str]:
    # What lies at the limits of the schema is the same for both.
    phases = "coverage,fuzzing" if token == OPERATOR else "fuzzing"
    seed = (
        ["--generation-deterministic"]
        if SEED is None
        else ["--seed", SEED, "--generation-database", "none"]
    )
    return [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
        *("run", f"{dashboard.base_url}/schema", "--no-color", "--workers", "1"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS), "--phases", phases),
        *("--max-examples", EXAMPLES, "--continue-on-failure", "--request-timeout", "60"),
        *("--suppress-health-check", "all", "--warnings", "off"),
        *seed,
        *("--report", "ndjson", "--report-ndjson-path", str(directory / "cases.ndjson")),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("token", [OPERATOR, VIEWER], ids=["operator", "viewer"])
async def test_the_api_answers_as_it_says(
    api: Served, database: Database, pg: asyncpg.Connection, token: str, tmp_path: Path
) -> None:
    values = await _fill(database, pg)
    (tmp_path / "schemathesis.toml").write_text(_configuration(values))
    running = await asyncio.create_subprocess_exec(
        *_command(api, token, tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(running.communicate(), _SECONDS)
    answers = _answers(tmp_path / "cases.ndjson")
    print("\n".join(f"{name}: {dict(sorted(each.items()))}" for name, each in answers.items()))
    assert running.returncode == 0, told.decode()
    # Otherwise nothing was tried but refusals.
    works = {name for name, each in answers.items() if DONE & each.keys()}
    allowed = {
        name
        for name in answers
        if token == OPERATOR or (name.startswith("GET") and name not in OF_OPERATORS)
    }
    assert allowed - RARE <= works <= allowed


def _answers(report: Path) -> dict[str, Counter[int]]:
    """How many requests were answered with which status, by operation."""
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for line in report.read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished")
        if scenario is not None:
            for each in scenario["recorder"]["interactions"].values():
                if each["response"] is not None:
                    found[scenario["recorder"]["label"]][each["response"]["status_code"]] += 1
    return dict(found)
