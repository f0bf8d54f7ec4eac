"""`relay events`, on a real database."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.store import events as store_events
from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, environment, event, output, process


@pytest.fixture
async def acme(relay: Relay) -> str:
    await relay("source", "create", "acme", "--insecure")
    return "acme"


async def park(database: Database, inbox_id: int, *, attempts: int, code: str) -> None:
    """Put a waiting event aside as a forwarder does after a failure."""
    async with database.driver() as pg:
        await pg.execute(
            "UPDATE relay.queue SET visible_at = now() + interval '1 hour', attempts = $2,"
            " last_error_code = $3, last_error = 'because' WHERE inbox_id = $1",
            inbox_id,
            attempts,
            code,
        )
        await pg.execute(
            "INSERT INTO relay.attempt (inbox_id, number, error_code, error)"
            " VALUES ($1, $1, $2, 'because')",
            inbox_id,
            code,
        )


async def deliver(database: Database, inbox_id: int, topic: str = "customer") -> None:
    """Settle an event as a forwarder does."""
    async with database.driver() as pg:
        await pg.execute(
            "WITH gone AS (DELETE FROM relay.queue WHERE inbox_id = $1 RETURNING *)"
            " INSERT INTO relay.receipt (inbox_id, received_at, number, record, kind, attempts,"
            ' topic, partition, "offset", key, op, produced_at)'
            " SELECT inbox_id, received_at, number, 0, 0, 0, $2, 3, 7, '{\"id\":\"cus_1\"}', 'u',"
            " now() FROM gone",
            inbox_id,
            topic,
        )


async def waiting(database: Database) -> dict[int, datetime | None]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT inbox_id, visible_at FROM relay.queue ORDER BY inbox_id")
    return {row["inbox_id"]: row["visible_at"] for row in rows}


# --- list -----------------------------------------------------------------------------------


async def test_list_is_the_newest_first_and_continues(
    relay: Relay, acme: str, receive: Receive
) -> None:
    ids = await receive(acme, *(event(f"evt_{n}") for n in range(5)))
    listed = output(await relay("events", "list", "--json"))
    assert [each["id"] for each in listed] == ids[::-1]
    assert listed[0]["event_id"] == "evt_4"
    assert listed[0]["state"] == "pending"
    assert len(listed[0]["body_sha256"]) == 64
    page = await relay("events", "list", "--limit", "2")
    assert f"--before {ids[3]}" in page.stdout
    rest = output(await relay("events", "list", "--before", str(ids[3]), "--json"))
    assert [each["id"] for each in rest] == ids[2::-1]


async def test_every_filter_narrows(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    await relay("source", "create", "beta", "--insecure")
    first, second, third = await receive(
        acme,
        event("evt_1", "customer.created", id="cus_1"),
        event("evt_2", "customer.subscription.updated", id="sub_1"),
        event("evt_3", "invoice.paid", id="in_1"),
    )
    (fourth,) = await receive("beta", event("evt_4", "customer.created", id="cus_1"))
    await park(database, second, attempts=2, code="kafka_oops")
    await deliver(database, third)
    show = output(await relay("source", "show", "beta", "--json"))
    now = datetime.now(UTC)
    cases: dict[tuple[str, ...], set[int]] = {
        (): {first, second, third, fourth},
        ("--source", "acme"): {first, second, third},
        ("--source", show["id"]): {fourth},
        ("--type", "customer.*"): {first, second, fourth},
        ("--type", "*.created"): {first, fourth},
        ("--type", "customer"): set(),
        ("--type", "customer_created"): set(),
        ("--object", "cus_1"): {first, fourth},
        ("--object", "cus_1", "--source", "acme"): {first},
        ("--state", "pending"): {first, fourth},
        ("--state", "retrying"): {second},
        ("--state", "delivered"): {third},
        ("--state", "dead"): set(),
        ("--error", "kafka_oops"): {second},
        ("--since", "1h"): {first, second, third, fourth},
        ("--until", "1h"): set(),
        ("--since", (now + timedelta(hours=1)).isoformat()): set(),
        ("--until", str(int(now.timestamp()) + 3600)): {first, second, third, fourth},
    }
    for args, wanted in cases.items():
        listed = output(await relay("events", "list", *args, "--json"))
        assert {each["id"] for each in listed} == wanted, args


async def test_a_misspelt_source_is_no_empty_answer(relay: Relay, acme: str) -> None:
    result = await relay("events", "list", "--source", "acne", exits=2)
    assert "known sources: acme" in result.stderr


@pytest.mark.parametrize(
    "args",
    [("--state", "lost"), ("--since", "yesterday"), ("--since", "-2h"), ("--limit", "0")],
)
async def test_a_bad_filter_is_named(relay: Relay, args: tuple[str, str]) -> None:
    assert args[0] in (await relay("events", "list", *args, exits=2)).stderr


async def test_strangers_cannot_write_to_the_terminal(
    relay: Relay, acme: str, receive: Receive
) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e[bold]"
    await receive(acme, event("evt_1", f"customer.{evil}", id=f"cus_{evil}"))
    for args in (("list",), ("show", "evt_1"), ("list", "--json"), ("show", "evt_1", "--json")):
        shown = (await relay("events", *args)).stdout
        assert not set("\x1b\x07\x9b\u202e") & set(shown), args
        assert "[bold]" in shown, "and nothing is swallowed as mark-up"


# --- show -----------------------------------------------------------------------------------


async def test_show_tells_what_became_of_an_event(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    (inbox_id,) = await receive(acme, event("evt_1", name="Ünï"))
    await park(database, inbox_id, attempts=1, code="own_fault")
    await deliver(database, inbox_id, topic="somewhere")
    for name in ("evt_1", str(inbox_id)):
        (shown,) = output(await relay("events", "show", name, "--json"))
        assert shown["state"] == "delivered"
        assert shown["signature_header"] == "t=1,v1=00"
        assert json.loads(shown["body"]) == event("evt_1", name="Ünï")
        (record,) = shown["deliveries"]
        assert (record["topic"], record["partition"], record["offset"]) == ("somewhere", 3, 7)
        assert [each["error_code"] for each in shown["failures"]] == ["own_fault"]
    text = (await relay("events", "show", "evt_1")).stdout
    for part in ("delivered", "somewhere", "own_fault", '"evt_1"'):
        assert part in text


async def test_show_finds_the_event_of_every_source(
    relay: Relay, acme: str, receive: Receive
) -> None:
    await relay("source", "create", "beta", "--insecure")
    await receive(acme, event("evt_1"))
    await receive("beta", event("evt_1", name="other"))
    shown = output(await relay("events", "show", "evt_1", "--json"))
    assert {each["source"] for each in shown} == {"acme", "beta"}
    result = await relay("events", "show", "evt_1", "--body", exits=2)
    assert "add --source" in result.stderr
    result = await relay("events", "show", "evt_1", "--source", "beta", "--body")
    assert json.loads(result.stdout) == event("evt_1", name="other")


async def test_show_of_nothing_fails(relay: Relay, acme: str) -> None:
    for name in ("evt_none", "12345", "9" * 30):
        result = await relay("events", "show", name, exits=1)
        assert f"there is no event '{name}'" in result.stderr


async def test_the_body_comes_out_byte_for_byte(
    database_url: str, relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    (inbox_id,) = await receive(acme, event("evt_1", name="\x1b[31m 漢 \u202e"))
    async with database.driver() as pg:
        stored = await pg.fetchval("SELECT relay.body($1)", inbox_id)
    args = ("events", "show", "evt_1", "--body")
    assert await process(*args, environ=environment(database_url)) == (0, stored, b"")


# --- retry and skip -------------------------------------------------------------------------


async def test_retry_makes_a_waiting_event_due_now(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    first, second = await receive(acme, event("evt_1"), event("evt_2", id="cus_2"))
    await park(database, first, attempts=3, code="x")
    await park(database, second, attempts=3, code="x")
    done = await relay("events", "retry", "evt_1", "--reason", "fixed", "--json")
    assert output(done) == {"matched": 1, "retried": 1}
    due = await waiting(database)
    assert due[first] is None
    assert due[second] is not None
    async with database.driver() as pg:
        row = await pg.fetchrow(
            "SELECT who, action, reason FROM relay.operator_log WHERE action LIKE 'event.%'"
        )
    assert row["action"] == "event.retry"
    assert row["reason"] == "fixed"
    assert "@" in row["who"]


async def test_retry_by_filter_takes_the_waiting_ones_only(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    failed, outage, delivered, other = await receive(
        acme, *(event(f"evt_{n}", id=f"cus_{n}") for n in range(4))
    )
    await park(database, failed, attempts=2, code="x")
    await park(database, outage, attempts=0, code="x")
    await park(database, other, attempts=1, code="y")
    await deliver(database, delivered)
    done = await relay("events", "retry", "--error", "x", "--yes")
    assert done.stdout == "2 events retried\n"
    due = await waiting(database)
    assert due[failed] is None
    assert due[outage] is None
    assert due[other] is not None


async def test_skip_gives_a_waiting_event_up(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    first, second = await receive(acme, event("evt_1"), event("evt_2"))
    assert output(await relay("events", "skip", "evt_1", "--json")) == {"matched": 1, "skipped": 1}
    assert list(await waiting(database)) == [second]
    (shown,) = output(await relay("events", "show", str(first), "--json"))
    assert (shown["state"], shown["skip_reason"]) == ("skipped", "discarded")


async def test_skip_frees_a_source_that_halted_there(
    relay: Relay, acme: str, receive: Receive, database: Database
) -> None:
    (inbox_id,) = await receive(acme, event("evt_1"))
    async with database.driver() as pg:
        await pg.execute(
            "UPDATE relay.source SET halted_at = now(), halted_code = 'x', halted_error = 'y',"
            " halted_number = $1",
            inbox_id,
        )
    await relay("events", "skip", "evt_1")
    assert output(await relay("source", "show", "acme", "--json"))["state"] == "forwarding"


@pytest.mark.parametrize("verb", ["retry", "skip"])
async def test_only_waiting_events_can_be_helped(
    relay: Relay, acme: str, receive: Receive, database: Database, verb: str
) -> None:
    (delivered,) = await receive(acme, event("evt_1"))
    await deliver(database, delivered)
    await receive(acme, event("evt_2"), dead="too_large")
    for name, state in (("evt_1", "it is delivered"), ("evt_2", "it is dead; see `relay dlq")):
        result = await relay("events", verb, name, exits=1)
        assert f"{name} does not wait: {state}" in result.stderr
    assert "there is no event" in (await relay("events", verb, "evt_3", exits=1)).stderr
    assert "do not wait" in (await relay("events", verb, "--state", "dead", exits=2)).stderr


@pytest.mark.parametrize("verb", ["retry", "skip"])
async def test_many_are_not_changed_unasked(
    relay: Relay, acme: str, receive: Receive, database: Database, verb: str
) -> None:
    (inbox_id,) = await receive(acme, event("evt_1"))
    await park(database, inbox_id, attempts=1, code="x")
    before = await waiting(database)
    result = await relay("events", verb, "--source", "acme", exits=2)
    assert f"{verb} 1 waiting events? There is no terminal to ask at: repeat with --yes." in (
        result.stderr
    )
    assert "name ids" in (await relay("events", verb, exits=2)).stderr
    both = await relay("events", verb, "evt_1", "--source", "acme", exits=2)
    assert "not both" in both.stderr
    dry = await relay("events", verb, "--source", "acme", "--dry-run")
    assert f"would {verb} 1 events" in dry.stdout
    assert "evt_1" in dry.stdout
    dry = await relay("events", verb, "evt_1", "--dry-run", "--json")
    assert output(dry)["matched"] == 1
    assert await waiting(database) == before
    async with database.driver() as pg:
        assert (
            await pg.fetchval("SELECT count(*) FROM relay.operator_log WHERE action LIKE 'event.%'")
            == 0
        )


@pytest.mark.parametrize("verb", ["retry", "skip"])
async def test_many_are_written_down_in_batches(
    relay: Relay, acme: str, receive: Receive, database: Database, verb: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ids = await receive(acme, *(event(f"evt_{n}") for n in range(5)))
    monkeypatch.setattr(store_events, "BATCH", 3)
    monkeypatch.setattr(store_events, "_IDS_IN_LOG", 2)
    args = ("events", verb, "--type", "customer.*", "--since", "1h", "--yes", "--reason", "why")
    done = output(await relay(*args, "--json"))
    assert list(done.values()) == [5, 5]
    async with database.driver() as pg:
        rows = await pg.fetch(
            "SELECT target, reason, details FROM relay.operator_log WHERE action = $1 ORDER BY id",
            f"event.{verb}",
        )
    assert [(row["target"], row["reason"]) for row in rows] == [
        ("3 events", "why"),
        ("2 events", "why"),
    ]
    told = [row["details"] for row in rows]
    for each in told:
        assert each["filter"].pop("since")
        assert each.pop("filter") == {"type": "customer.*"}
    # The newest first: what waits behind is skipped before what it waits for.
    assert told == [
        {"count": 3, "first": ids[2], "last": ids[4]},
        {"count": 2, "ids": ids[:2]},
    ]


async def test_what_was_done_of_an_interrupted_bulk_is_told(
    relay: Relay, acme: str, receive: Receive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await receive(acme, *(event(f"evt_{n}") for n in range(5)))
    skip, calls = store_events.skip, 0

    async def once(*args: Any, **kwargs: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError("the connection was lost")
        return await skip(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(store_events, "BATCH", 3)
        patched.setattr(store_events, "skip", once)
        broken = await relay("events", "skip", "--source", "acme", "--yes", exits=1)
    assert "interrupted: 3 of 5 are done; the same command again goes on" in broken.stderr
    assert list(await waiting(database)) == ids[:2]
    assert "2 events skipped" in (await relay("events", "skip", "--source", "acme", "--yes")).stdout


async def test_nothing_that_fits_is_no_failure(relay: Relay, acme: str) -> None:
    assert "no waiting events fit" in (await relay("events", "retry", "--error", "x")).stdout
    done = await relay("events", "skip", "--error", "x", "--json")
    assert output(done) == {"matched": 0, "skipped": 0}
