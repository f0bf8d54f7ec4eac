"""`relay events replay`, on a real database."""

from __future__ import annotations

import pytest

from relay.store import replays
from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, event, output
from tests.cli.test_events import deliver


@pytest.fixture
async def ids(relay: Relay, receive: Receive, database: Database) -> list[int]:
    """Three delivered events of three objects, of a source named acme."""
    await relay("source", "create", "acme", "--insecure")
    made = await receive("acme", *(event(f"evt_{n}", id=f"cus_{n}") for n in (1, 2, 3)))
    for each in made:
        await deliver(database, each)
    return made


async def queued(database: Database) -> list[tuple[int, str | None]]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT inbox_id, replay_id FROM relay.queue ORDER BY number")
    return [tuple(row) for row in rows]


async def test_by_name(relay: Relay, ids: list[int], database: Database) -> None:
    dry = await relay("events", "replay", "evt_2", "--dry-run")
    assert "would send 1 events again" in dry.stdout
    assert await queued(database) == []
    done = output(await relay("events", "replay", "evt_2", str(ids[0]), "--json"))
    assert done["queued"] == 2
    assert await queued(database) == [(each, done["replay_id"]) for each in ids[:2]]
    refused = await relay("events", "replay", "evt_2", exits=2)
    assert "evt_2 is pending: it will be sent anyway" in refused.stderr
    missing = await relay("events", "replay", "evt_9", exits=1)
    assert "there is no event 'evt_9'" in missing.stderr


async def test_many_are_counted_and_asked_about(
    relay: Relay, ids: list[int], database: Database
) -> None:
    dry = output(await relay("events", "replay", "--topic", "customer", "--dry-run", "--json"))
    assert (dry["matched"], dry["dry_run"]) == (3, True)
    asked = await relay("events", "replay", "--source", "acme", exits=2)
    assert "send 3 delivered events again? There is no terminal to ask at" in asked.stderr
    assert "not paused: acme" in asked.stderr
    assert await queued(database) == []
    await relay("source", "pause", "acme")
    done = await relay(
        "events", "replay", "--topic", "customer", "--yes", "--reason", "the topic was lost"
    )
    assert "3 events are queued again as rpl_" in done.stdout
    assert "not paused" not in done.stderr
    assert [each for each, _ in await queued(database)] == ids
    async with database.driver() as pg:
        reasons = await pg.fetch(
            "SELECT DISTINCT reason FROM relay.operator_log WHERE action = 'event.replay'"
        )
    assert [row["reason"] for row in reasons] == ["the topic was lost"]
    none = await relay("events", "replay", "--topic", "invoice", "--yes")
    assert "no events fit" in none.stdout


async def test_an_interrupted_one_is_gone_on_with(
    relay: Relay, ids: list[int], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = replays.queue_some
    calls = 0

    async def once(*args: object, **kwargs: object) -> replays.Run:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the connection was lost")
        return await limited(*args, limit=2)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(replays, "queue_some", once)
        broken = await relay("events", "replay", "--source", "acme", "--yes", exits=1)
    assert "interrupted: 2 events are queued" in broken.stderr
    name = next(word for word in broken.stderr.split() if word.startswith("rpl_")).strip("`")
    done = output(await relay("events", "replay", "--resume", name, "--json"))
    assert done == {"dry_run": False, "replay_id": name, "queued": 3, "redacted": 0}
    assert await queued(database) == [(each, name) for each in ids]
    again = await relay("events", "replay", "--resume", name, exits=1)
    assert f"{name} is finished: it has queued 3 events" in again.stderr
    unknown = await relay("events", "replay", "--resume", "rpl_no", exits=1)
    assert "there is no replay 'rpl_no' of many events" in unknown.stderr


async def test_one_way_of_choosing_at_a_time(relay: Relay, ids: list[int]) -> None:
    for arguments in ((), ("evt_1", "--topic", "customer"), ("--resume", "rpl_1", "evt_1")):
        result = await relay("events", "replay", *arguments, exits=2)
        assert "name events, or give a filter" in result.stderr
    for state, hint in (("dead", "`relay dlq replay`"), ("pending", "will be sent anyway")):
        result = await relay("events", "replay", "--state", state, exits=2)
        assert hint in result.stderr


async def test_one_is_cancelled(
    relay: Relay, ids: list[int], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = replays.queue_some
    calls = 0

    async def once(*args: object, **kwargs: object) -> replays.Run:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the connection was lost")
        return await limited(*args, limit=1)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(replays, "queue_some", once)
        await relay("events", "replay", "--source", "acme", "--yes", exits=1)
    (found,) = output(await relay("replays", "list", "--json"))
    assert (found["queued"], found["is_finished"], found["is_cancelled"]) == (1, False, False)
    name = found["replay_id"]
    done = await relay("replays", "cancel", name, "--reason", "a mistake")
    assert f"{name} is cancelled: 1 of 3 are queued" in done.stdout
    assert "it was cancelled" in (await relay("replays", "show", name)).stdout
    again = await relay("replays", "cancel", name, exits=1)
    assert f"{name} is finished: it has queued 1 events" in again.stderr
    unknown = await relay("replays", "cancel", "rpl_x", exits=1)
    assert "there is no replay 'rpl_x'" in unknown.stderr
    assert [each for each, _ in await queued(database)] == ids[:1]
