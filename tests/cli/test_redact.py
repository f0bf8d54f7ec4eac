"""`relay redact`, on a real database and as a login that may do no more than it must."""

from __future__ import annotations

import pytest

from relay.core.errors import RelayError
from relay.store import redactions
from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, environment, event, invoke, output
from tests.cli.test_events import deliver
from tests.support.logins import as_login

WHY = ("--reason", "request 17")


@pytest.fixture
async def ids(relay: Relay, receive: Receive, database: Database) -> list[int]:
    """Of cus_1 one delivered, one waiting and one dead event; the last is another customer's."""
    await relay("source", "create", "acme", "--insecure")
    sent, waits = await receive("acme", event("evt_1"), event("evt_2"))
    await deliver(database, sent)
    (dead,) = await receive("acme", event("evt_3"), dead="too_large")
    (other,) = await receive("acme", event("evt_4", id="cus_2"))
    return [sent, waits, dead, other]


async def lengths(database: Database) -> list[int]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT octet_length(body) AS bytes FROM relay.inbox ORDER BY id")
    return [row["bytes"] for row in rows]


async def test_it_counts_and_asks_and_erases(
    relay: Relay, ids: list[int], database: Database
) -> None:
    before = await lengths(database)
    asked = await relay("redact", "cus_1", *WHY, exits=2)
    assert "erase for ever the bodies of 3 events of cus_1 (1 of them wait" in asked.stderr
    dry = await relay("redact", "cus_1", *WHY, "--dry-run")
    assert "would erase the bodies of 3 events of cus_1" in dry.stdout
    assert "evt_2" in dry.stdout
    assert "evt_4" not in dry.stdout
    plan = output(await relay("redact", "cus_1", *WHY, "--dry-run", "--json"))
    assert [each["event_id"] for each in plan.pop("first")] == ["evt_1", "evt_2", "evt_3"]
    assert plan == {
        "object": "cus_1", "dry_run": True, "matched": 3, "redacted_before": 0, "waiting": 1,
        "dead": 1, "samples": 0, "topics": ["customer"],
    }  # fmt: skip
    assert await lengths(database) == before
    done = await relay("redact", "cus_1", *WHY, "--yes")
    assert "3 events redacted; 1 of them waited and were skipped, 1 dead letters" in done.stdout
    assert "still in Kafka: records in customer" in done.stdout
    assert await lengths(database) == [0, 0, 0, before[3]]
    again = await relay("redact", "cus_1", *WHY)
    assert "0 events redacted" in again.stdout
    assert "3 events were redacted before" in again.stdout


async def test_json(relay: Relay, ids: list[int]) -> None:
    assert output(await relay("redact", "cus_1", *WHY, "--yes", "--json")) == {
        "object": "cus_1", "dry_run": False, "matched": 3, "redacted_before": 0, "redacted": 3,
        "skipped": 1, "discarded": 1, "samples": 0, "topics": ["customer"],
    }  # fmt: skip


async def test_without_a_reason_nothing_happens(
    relay: Relay, ids: list[int], database: Database
) -> None:
    before = await lengths(database)
    for reason in ((), ("--reason", ""), ("--reason", "  ")):
        refused = await relay("redact", "cus_1", "--yes", *reason, exits=2)
        assert "say why, with --reason" in refused.stderr
    assert await lengths(database) == before


async def test_an_object_without_events_is_told(relay: Relay, ids: list[int]) -> None:
    refused = await relay("redact", "cus_9", *WHY, "--yes", exits=1)
    assert "there is no event of an object 'cus_9'" in refused.stderr
    refused = await relay("redact", "cus_1", *WHY, "--source", "other", "--yes", exits=2)
    assert "no source named 'other'" in refused.stderr
    await relay("source", "create", "empty", "--insecure")
    refused = await relay("redact", "cus_1", *WHY, "--source", "empty", "--yes", exits=1)
    assert "no event of an object 'cus_1' in empty" in refused.stderr


async def test_it_is_told_of_afterwards(relay: Relay, ids: list[int]) -> None:
    before = output(await relay("events", "show", "evt_1", "--json"))[0]
    assert before["redaction"] is None
    await relay("redact", "cus_1", *WHY, "--yes")
    shown = await relay("events", "show", "evt_1")
    assert "redacted at 2" in shown.stdout
    assert ": request 17" in shown.stdout
    (after,) = output(await relay("events", "show", "evt_1", "--json"))
    assert (after["body"], after["state"]) == (None, "delivered")
    assert after["redaction"]["reason"] == "request 17"
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"body", "redaction"}
    (skipped,) = output(await relay("events", "show", "evt_2", "--json"))
    assert (skipped["state"], skipped["skip_reason"]) == ("skipped", "redacted")
    refused = await relay("events", "show", "evt_1", "--body", exits=1)
    assert "the body of evt_1 was redacted at" in refused.stderr


async def test_it_is_not_sent_again(relay: Relay, ids: list[int], database: Database) -> None:
    await deliver(database, ids[3])
    await relay("redact", "cus_1", *WHY, "--yes")
    refused = await relay("events", "replay", "evt_1", exits=1)
    assert "there is nothing left to send" in refused.stderr
    some = await relay("events", "replay", "evt_1", "evt_4")
    assert "1 events are queued again" in some.stdout
    assert "1 events are left out: they were redacted" in some.stderr
    await deliver(database, ids[3])
    dry = await relay("events", "replay", "--source", "acme", "--dry-run")
    assert "would send 1 events again" in dry.stdout
    assert "1 events are left out" in dry.stderr
    many = output(await relay("events", "replay", "--source", "acme", "--yes", "--json"))
    assert (many["queued"], many["redacted"]) == (1, 1)
    refused = await relay("events", "retry", "evt_2", exits=1)
    assert "evt_2 does not wait: it is skipped" in refused.stderr
    refused = await relay("dlq", "replay", "evt_3", exits=1)
    assert "no open dead letter" in refused.stderr


async def test_an_interrupted_one_is_done_by_the_next(
    relay: Relay, ids: list[int], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = redactions.redact_some
    calls = 0

    async def once(*args: object, **kwargs: object) -> redactions.Step:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RelayError("the connection was lost")
        return await original(*args, limit=2, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(redactions, "redact_some", once)
        broken = await relay("redact", "cus_1", *WHY, "--yes", exits=1)
    assert "interrupted after 2 events: the same again does the rest" in broken.stderr
    assert (await lengths(database)).count(0) == 2
    done = output(await relay("redact", "cus_1", *WHY, "--yes", "--json"))
    assert (done["redacted_before"], done["redacted"]) == (2, 1)


@pytest.mark.parametrize("login", ["receiver", "forwarder", "snapshotter", "auditor"])
async def test_other_roles_may_not(
    relay: Relay, ids: list[int], database: Database, database_url: str, login: str
) -> None:
    before = await lengths(database)
    environ = environment(database_url) | {"RELAY_DATABASE_URL": as_login(database_url, login)}
    refused = await invoke("redact", "cus_1", *WHY, "--yes", environ=environ, exits=1)
    assert "may not do this" in refused.stderr
    assert await lengths(database) == before
