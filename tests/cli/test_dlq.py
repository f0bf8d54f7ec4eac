"""`relay dlq`, on a real database."""

from __future__ import annotations

import asyncio
import json
import re
import signal

import pytest

from relay.store import deadletters, inbox
from relay.store import events as store_events
from relay.store.engine import Database
from tests.cli.conftest import COMMAND, Receive, Relay, environment, event, output
from tests.cli.test_events import deliver


@pytest.fixture
async def acme(relay: Relay) -> str:
    await relay("source", "create", "acme", "--insecure")
    return "acme"


async def letters(relay: Relay, *args: str) -> list[int]:
    return [each["id"] for each in output(await relay("dlq", "list", *args, "--json"))]


async def queued(database: Database) -> list[tuple[int, str | None]]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT inbox_id, replay_id FROM relay.queue ORDER BY number")
    return [tuple(row) for row in rows]


async def refuse(database: Database, code: str = "signature_wrong") -> None:
    """Keep a sample of a refused request as the receiver does."""
    async with database.driver() as pg:
        source_id = await pg.fetchval("SELECT id FROM relay.source LIMIT 1")
        await inbox.keep_refused(pg, source_id, code, "no secret fits", b"\xff\x1b[31m")


async def test_list_shows_the_open_ones(relay: Relay, acme: str, receive: Receive) -> None:
    assert "no dead letters fit" in (await relay("dlq", "list")).stdout
    await receive(acme, event("evt_1", "invoice.paid"), dead="too_large")
    await receive(acme, event("evt_2"), dead="invalid_topic")
    listed = output(await relay("dlq", "list", "--json"))
    assert [each["event_id"] for each in listed] == ["evt_2", "evt_1"]
    assert listed[1]["error_code"] == "too_large"
    text = (await relay("dlq", "list")).stdout
    assert "evt_1" in text
    assert "it is too_large" in text
    (first,) = await letters(relay, "--type", "invoice.*")
    await relay("dlq", "discard", str(first))
    assert first not in await letters(relay)
    assert first in await letters(relay, "--all")
    page = await relay("dlq", "list", "--all", "--limit", "1")
    assert f"--before {listed[0]['id']}" in page.stdout


async def test_filters(relay: Relay, acme: str, receive: Receive) -> None:
    await relay("source", "create", "beta", "--insecure")
    await receive(acme, event("evt_1", "invoice.paid", id="in_1"), dead="too_large")
    await receive("beta", event("evt_2", "customer.created", id="cus_1"), dead="invalid_topic")
    (second, first) = await letters(relay)
    cases: dict[tuple[str, ...], list[int]] = {
        ("--source", "beta"): [second],
        ("--type", "invoice.*"): [first],
        ("--object", "cus_1"): [second],
        ("--error", "too_large"): [first],
        ("--state", "dead"): [second, first],
        ("--since", "2h"): [second, first],
        ("--until", "2h"): [],
        ("--source", "beta", "--error", "too_large"): [],
    }
    for args, wanted in cases.items():
        assert await letters(relay, *args) == wanted, args
    result = await relay("dlq", "list", "--state", "delivered", exits=2)
    assert "dead letters have no state 'delivered'" in result.stderr


async def test_show_has_the_body(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    await receive(acme, event("evt_1"), dead="too_large")
    (letter,) = await letters(relay)
    shown = output(await relay("dlq", "show", str(letter), "--json"))
    assert json.loads(shown["body_text"]) == event("evt_1")
    assert '"evt_1"' in (await relay("dlq", "show", str(letter))).stdout
    await refuse(database)
    sample = (await relay("dlq", "show", str(letter + 1))).stdout
    assert "sample of a refused request" in sample
    assert "\x1b" not in sample
    missing = await relay("dlq", "show", "999", exits=1)
    assert "there is no dead letter 999" in missing.stderr


async def test_replay_queues_an_event_again(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    (inbox_id,) = await receive(acme, event("evt_1"), dead="too_large")
    (letter,) = await letters(relay)
    done = output(await relay("dlq", "replay", str(letter), "--reason", "limit raised", "--json"))
    assert (done["matched"], done["queued"], done["overtaken"]) == (1, 1, 0)
    assert done["replay_id"].startswith("rpl_")
    assert await queued(database) == [(inbox_id, done["replay_id"])]
    assert await letters(relay) == []
    result = await relay("dlq", "replay", str(letter), exits=1)
    assert f"dead letter {letter} was replayed already" in result.stderr
    result = await relay("dlq", "replay", "evt_1", exits=1)
    assert "no open dead letter" in result.stderr


async def test_replay_by_event_id_and_by_filter(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    ids = [
        *await receive(acme, event("evt_1"), dead="too_large"),
        *await receive(acme, event("evt_2"), dead="too_large"),
        *await receive(acme, event("evt_3"), dead="invalid_topic"),
    ]
    await relay("dlq", "replay", "evt_3")
    assert [inbox_id for inbox_id, _ in await queued(database)] == ids[2:]
    done = await relay("dlq", "replay", "--error", "too_large", "--yes")
    assert "2 of 2 dead letters are queued again as rpl_" in done.stdout
    assert [inbox_id for inbox_id, _ in await queued(database)] == [ids[2], *ids[:2]]


async def test_replay_warns_when_newer_events_were_delivered(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    await receive(acme, event("evt_1"), dead="too_large")
    (newer,) = await receive(acme, event("evt_2"))
    await deliver(database, newer)
    (letter,) = await letters(relay)
    dry = await relay("dlq", "replay", str(letter), "--dry-run")
    assert "newer events were delivered since" in dry.stderr
    done = await relay("dlq", "replay", str(letter), "--json")
    assert output(done)["overtaken"] == 1
    assert "newer events were delivered since" in done.stderr
    assert f"(dead letters {letter})" in done.stderr


async def test_what_is_no_event_cannot_be_replayed(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    await refuse(database)
    (sample,) = await letters(relay)
    done = await relay("dlq", "replay", str(sample), "--json", exits=1)
    assert output(done)["queued"] == 0
    assert output(done)["refused"] == {"a refused request: it never was an event of yours": 1}
    assert f"dead letter {sample} cannot be sent" in done.stderr
    assert await letters(relay) == [sample]
    await receive(acme, event("evt_1"), dead="too_large")
    mixed = await relay("dlq", "replay", "--source", "acme", "--yes")
    assert "1 of 2 dead letters are queued again" in mixed.stdout


async def test_discard_gives_dead_letters_up(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    await receive(acme, event("evt_1"), dead="too_large")
    await refuse(database)
    done = await relay("dlq", "discard", "--source", "acme", "--yes", "--json")
    assert output(done) == {"matched": 2, "dry_run": False, "discarded": 2}
    assert await letters(relay) == []
    assert await queued(database) == []
    (shown,) = output(await relay("events", "show", "evt_1", "--json"))
    assert (shown["state"], shown["skip_reason"]) == ("skipped", "discarded")
    async with database.driver() as pg:
        action = await pg.fetchval("SELECT action FROM relay.operator_log ORDER BY id DESC LIMIT 1")
    assert action == "dead_letter.discard"


@pytest.mark.parametrize("verb", ["replay", "discard"])
async def test_many_are_not_changed_unasked(
    relay: Relay, acme: str, receive: Receive, database: Database, verb: str
) -> None:
    await receive(acme, event("evt_1"), event("evt_2"), dead="too_large")
    result = await relay("dlq", verb, "--error", "too_large", exits=2)
    how_many = {"replay": "2 of 2", "discard": "2"}[verb]
    assert f"{verb} {how_many} dead letters? There is no terminal to ask at" in result.stderr
    assert "name ids" in (await relay("dlq", verb, exits=2)).stderr
    await relay("dlq", verb, "1", "--error", "too_large", exits=2)
    dry = await relay("dlq", verb, "--error", "too_large", "--dry-run")
    assert f"would {verb} 2" in dry.stdout
    assert len(await letters(relay)) == 2
    assert await queued(database) == []
    async with database.driver() as pg:
        acted = "SELECT count(*) FROM relay.operator_log WHERE action LIKE 'dead_letter.%'"
        assert await pg.fetchval(acted) == 0
    none = output(await relay("dlq", verb, "--error", "other", "--json"))
    assert none["matched"] == 0


async def test_an_interrupted_replay_is_gone_on_with(
    relay: Relay, acme: str, receive: Receive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await receive(acme, *(event(f"evt_{n}") for n in range(5)), dead="too_large")
    queue_some = deadletters.queue_some
    calls = 0

    async def once(*args: object, **kwargs: object) -> deadletters.Run:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the connection was lost")
        return await queue_some(*args, limit=2)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(deadletters, "queue_some", once)
        broken = await relay("dlq", "replay", "--error", "too_large", "--yes", exits=1)
    assert "interrupted: 2 dead letters are queued" in broken.stderr
    name = re.search(r"`relay dlq replay --resume (rpl_\w+)`", broken.stderr)[1]  # type: ignore[index]
    assert await queued(database) == [(each, name) for each in ids[:2]]
    # What died since has not been asked about.
    await receive(acme, event("evt_new"), dead="too_large")
    shown = output(await relay("replays", "show", name, "--json"))
    assert (shown["matched"], shown["queued"], shown["is_finished"]) == (5, 2, False)
    assert "relay dlq replay --resume" in (await relay("replays", "show", name)).stdout
    done = output(await relay("dlq", "replay", "--resume", name, "--json"))
    assert (done["matched"], done["queued"], done["replay_id"]) == (5, 5, name)
    assert await queued(database) == [(each, name) for each in ids]
    again = await relay("dlq", "replay", "--resume", name, exits=1)
    assert f"{name} is finished: it has queued 5 dead letters" in again.stderr
    assert await queued(database) == [(each, name) for each in ids]
    unknown = await relay("dlq", "replay", "--resume", "rpl_no", exits=1)
    assert "there is no replay 'rpl_no' of many dead letters" in unknown.stderr
    dry = await relay("dlq", "replay", "--resume", name, "--dry-run", exits=2)
    assert "no --dry-run" in dry.stderr


async def test_ctrl_c_ends_a_replay_between_two_transactions(
    relay: Relay, acme: str, receive: Receive, database: Database, database_url: str
) -> None:
    """The process itself, waiting for a row that somebody holds."""
    ids = await receive(acme, *(event(f"evt_{n}") for n in range(3)), dead="too_large")
    async with database.driver() as pg:
        transaction = pg.transaction()
        await transaction.start()
        await pg.execute("SELECT FROM relay.dead_letter FOR UPDATE")
        started = await asyncio.create_subprocess_exec(
            *COMMAND, "dlq", "replay", "--source", "acme", "--yes", env=environment(database_url),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with database.driver() as other:
            while not await other.fetchval(waits):
                assert started.returncode is None
                await asyncio.sleep(0.02)
        started.send_signal(signal.SIGINT)
        stdout, stderr = await started.communicate()
        await transaction.rollback()
    assert (started.returncode, stdout) == (1, b"")
    assert b"interrupted: 0 dead letters are queued" in stderr
    assert b"Traceback" not in stderr
    (one,) = output(await relay("replays", "list", "--json"))
    assert (one["matched"], one["queued"], one["is_finished"]) == (3, 0, False)
    await relay("dlq", "replay", "--resume", one["replay_id"])
    assert [each for each, _ in await queued(database)] == ids


async def test_a_discard_of_many_is_written_down_in_batches(
    relay: Relay, acme: str, receive: Receive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await receive(acme, *(event(f"evt_{n}") for n in range(5)), dead="too_large")
    open_ones = await letters(relay)
    monkeypatch.setattr(store_events, "BATCH", 3)
    monkeypatch.setattr(store_events, "_IDS_IN_LOG", 2)
    args = ("dlq", "discard", "--error", "too_large", "--yes", "--reason", "no use", "--json")
    assert output(await relay(*args))["discarded"] == 5
    async with database.driver() as pg:
        rows = await pg.fetch(
            "SELECT target, reason, details FROM relay.operator_log"
            " WHERE action = 'dead_letter.discard' ORDER BY id"
        )
    assert {row["reason"] for row in rows} == {"no use"}
    told = [row["details"] for row in rows]
    assert [each.pop("filter") for each in told] == [{"error": "too_large"}] * 2
    lowest = sorted(open_ones)
    assert told == [
        {"count": 3, "first": lowest[0], "last": lowest[2]},
        {"count": 2, "ids": lowest[3:]},
    ]
