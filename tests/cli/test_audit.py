"""`relay audit`: what it prints, and its exit code."""

from __future__ import annotations

import re

import pytest

from relay.cli import audit as commands
from relay.store import seals
from relay.store.engine import Database
from tests.cli.conftest import Receive, Relay, event, invoke, output
from tests.support.logins import as_login

GREEN = """\
CHECK       LOOKED AT  VIOLATIONS  WHAT
accounted   2          0           every event waits, is dead, or has a receipt that says"""


async def seal(database: Database) -> None:
    async with database.driver() as pg:
        await seals.seal_round(pg)


async def damage(database: Database, statement: str) -> None:
    async with database.driver() as pg, pg.transaction():
        await pg.execute("SET LOCAL session_replication_role = replica")
        await pg.execute(statement)


async def make_shop(relay: Relay, receive: Receive, database: Database) -> list[int]:
    await relay("source", "create", "shop", "--insecure")
    ids = await receive("shop", event("evt_1"), event("evt_2"))
    await seal(database)
    return ids


async def test_nothing_wrong(relay: Relay, receive: Receive, database: Database) -> None:
    await make_shop(relay, receive, database)
    result = await relay("audit")
    assert result.stdout.startswith(GREEN)
    assert "Nothing is wrong." in result.stdout
    assert re.search(r"^head 1:[0-9a-f]{64}$", result.stdout, re.MULTILINE)
    told = output(await relay("audit", "--json", "--source", "shop", "--since", "1d"))
    assert told["ok"] is True
    assert (told["source"], told["violations"]) == ("shop", [])
    assert [check["name"] for check in told["checks"]] == [
        *("accounted", "receipts", "bodies", "keys", "orphans", "seals", "partitions")
    ]
    assert told["since"].endswith("T00:00:00.000Z")


async def test_what_is_wrong_is_named_and_fails(
    relay: Relay, receive: Receive, database: Database
) -> None:
    ids = await make_shop(relay, receive, database)
    await damage(database, "DELETE FROM relay.queue; UPDATE relay.inbox SET body = 'x'")
    result = await relay("audit", exits=1)
    lines = result.stdout.splitlines()
    assert (
        f"bodies: event evt_1 (inbox id {ids[0]}): its 1 bytes are not those of its SHA-256"
        in lines
    )
    assert lines[-1] == "The promise is broken."
    told = output(await relay("audit", "--json", exits=1))
    assert told["ok"] is False
    assert {
        "check": "accounted",
        "error": "lost: it does not wait, has no open dead letter and no receipt",
        "inbox_id": ids[1],
        "event_id": "evt_2",
        "seal": None,
        "topic": None,
        "partition": None,
        "offset": None,
    } in told["violations"]


async def test_the_list_is_bounded_and_json_is_not(
    relay: Relay, receive: Receive, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_SHOWN", 1)
    await make_shop(relay, receive, database)
    await damage(database, "DELETE FROM relay.queue")
    result = await relay("audit", exits=1)
    assert result.stdout.count("lost") == 1
    assert "and 1 more: --json has all of them" in result.stdout
    assert len(output(await relay("audit", "--json", exits=1))["violations"]) == 2


async def test_the_head_is_printed_and_expected_later(
    relay: Relay, receive: Receive, database: Database
) -> None:
    assert "nothing is sealed yet" in (await relay("audit", "--head", exits=1)).stderr
    assert output(await relay("audit", "--head", "--json")) == {"number": None, "sha256": None}
    await make_shop(relay, receive, database)
    head = (await relay("audit", "--head")).stdout.strip()
    number, digest = head.split(":")
    assert output(await relay("audit", "--head", "--json")) == {
        "number": int(number),
        "sha256": digest,
    }
    await receive("shop", event("evt_3"))
    await seal(database)
    newer = (await relay("audit", "--head")).stdout.strip()
    await relay("audit", "--expect", head, "--expect", newer)
    wrong = f"{number}:{'0' * 64}"
    result = await relay("audit", "--expect", wrong, "--expect", newer, exits=1)
    assert f"heads: seal {number}: its hash is {digest}" in result.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--expect", "7"), "write NUMBER:HASH"),
        (("--head", "--kafka"), "--head only prints"),
        (("--source", "nobody"), "there is no source 'nobody'"),
        (("--since", "tomorrow"), "is no time"),
        (("--kafka",), "RELAY_KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
async def test_what_is_no_use_exits_with_2(relay: Relay, flags: tuple[str, ...], said: str) -> None:
    result = await relay("audit", *flags, exits=2)
    assert said in result.stderr


async def test_kafka_is_asked_when_told_to(
    relay: Relay, receive: Receive, database: Database, kafka: str
) -> None:
    await make_shop(relay, receive, database)
    await damage(
        database,
        "DELETE FROM relay.queue; INSERT INTO relay.receipt (inbox_id, received_at, number, record,"
        """ kind, attempts, topic, partition, "offset", key, op, produced_at)"""
        " SELECT id, received_at, id, 0, 0, 0, 'no-such-topic', 0, 0, '{}', 'u', now()"
        " FROM relay.inbox",
    )
    await relay("audit")
    result = await relay("audit", "--kafka", exits=1, RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka)
    assert "the topic no-such-topic is gone; 2 receipts name partition 0" in result.stdout


async def test_without_kafka_it_says_so(relay: Relay) -> None:
    result = await relay("audit", "--kafka", exits=1, RELAY_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert "Kafka does not answer" in result.stderr
    assert "PostgreSQL" not in result.stderr


async def test_an_auditor_may(
    relay: Relay, receive: Receive, database: Database, database_url: str
) -> None:
    await make_shop(relay, receive, database)
    environ = {"RELAY_DATABASE_URL": as_login(database_url, "auditor")}
    assert "Nothing is wrong." in (await invoke("audit", environ=environ)).stdout
