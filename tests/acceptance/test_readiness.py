"""`relay serve` as a process: ready or why not, drained by SIGTERM, refused with one clear line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.dev import samples
from relay.store.sealing import new_key
from tests.acceptance import evidence
from tests.acceptance.fleet import Serving, command, create_source, environment, get, read_answer
from tests.acceptance.sender import Webhook, post
from tests.support.databases import Databases
from tests.support.processes import eventually

SECRET = "whsec_" + "r" * 32
NOBODY_LISTENS = "127.0.0.1:1"
CHECKS = {"database", "writable", "durability", "schema", "draining"}


@asynccontextmanager
async def serving(roles: str, settings: Mapping[str, str], log: Path) -> AsyncIterator[Serving]:
    """A process from its start to its end, which has to be a good one."""
    process = Serving(roles, settings, log)
    try:
        yield await process.started()
        assert await process.stop() == 0
    finally:
        await process.kill()


async def readiness(port: int) -> tuple[int, dict[str, str]]:
    """The status of `/readyz`, and the reasons of the checks that fail."""
    answer = await get(port, "/readyz")
    checks = answer.json["checks"]
    assert checks.keys() == CHECKS
    reasons = {name: check["reason"] for name, check in checks.items() if not check["ok"]}
    assert answer.json["ready"] is (not reasons)
    return answer.status, reasons


async def becomes(port: int, *, failing: set[str]) -> dict[str, str]:
    """Wait until exactly these checks fail; their reasons."""
    found: dict[str, str] = {}

    async def is_so() -> bool:
        status, reasons = await readiness(port)
        found.update(reasons)
        return reasons.keys() == failing and status == (503 if failing else 200)

    await eventually(is_so, deadline=60)
    return {name: found[name] for name in failing}


async def test_ready_on_both_ports(database_url: str, kafka: str, tmp_path: Path) -> None:
    settings = environment(RELAY_DATABASE_URL=database_url, RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka)
    async with serving("receiver,forwarder,admin", settings, tmp_path / "log") as process:
        for port in (process.port, process.admin_port):
            assert (await get(port, "/livez")).json == {"alive": True}
            assert await readiness(port) == (200, {})
            assert (await get(port, "/healthz")).status == 404


@pytest.mark.slow
async def test_not_ready_tells_why(
    postgres: Databases, empty_database_url: str, tmp_path: Path
) -> None:
    """Through all of it the process lives, and Kafka, which is away, is no reason at all."""
    settings = environment(
        RELAY_DATABASE_URL=empty_database_url, RELAY_KAFKA_BOOTSTRAP_SERVERS=NOBODY_LISTENS
    )
    name = empty_database_url.rpartition("/")[2]
    admin = await asyncpg.connect(postgres.dsn)

    async def change(statement: str) -> None:
        """A setting of the database, in force for all who connect from now on."""
        await admin.execute(f'ALTER DATABASE "{name}" {statement}')
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )

    async with serving("receiver,forwarder", settings, tmp_path / "log") as process:
        ports = (process.port, process.admin_port)

        async def on_both(failing: str, word: str) -> None:
            for port in ports:
                reasons = await becomes(port, failing={failing})
                assert word in reasons[failing], reasons
                assert (await get(port, "/livez")).status == 200

        await on_both("schema", "migrate")
        status, _, errors = await command("migrate", environment=settings)
        assert status == 0, errors
        await becomes(ports[0], failing=set())
        await change("SET synchronous_commit = off")
        await on_both("durability", "synchronous_commit")
        await change("RESET synchronous_commit")
        await becomes(ports[1], failing=set())
        await change("SET default_transaction_read_only = on")
        await on_both("writable", "read")
        await change("RESET default_transaction_read_only")
        await becomes(ports[0], failing=set())
        await change("ALLOW_CONNECTIONS false")
        await on_both("database", "cannot be reached")
        await change("ALLOW_CONNECTIONS true")
        await becomes(ports[0], failing=set())
        await becomes(ports[1], failing=set())
    await admin.close()


async def test_sigterm_drains(
    database_url: str, direct_url: str, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
    )
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    first, second = samples.events(2, types=["customer.created"])
    pg = await asyncpg.connect(direct_url)
    process = await Serving("receiver,forwarder", settings, tmp_path / "log").ready()
    try:
        # One event is in Kafka and cannot be settled, the other's request is half sent.
        settling = pg.transaction()
        await settling.start()
        await pg.execute("LOCK TABLE relay.receipt IN SHARE MODE")
        assert (await post(process.port, webhook, first.body)).json == {"received": True}
        await eventually(lambda: _waits(pg))
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        head, _, body = webhook.request(second.body).partition(b"\r\n\r\n")
        writer.write(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n"), "the receiver waits for the body"
        writer.write(body[:100])

        process.terminate()
        await becomes(process.admin_port, failing={"draining"})
        assert (await get(process.admin_port, "/livez")).status == 200
        await eventually(lambda: _is_closed(process.port))
        assert process.exit_status is None
        writer.write(body[100:])
        assert (await read_answer(reader)).json == {"received": True}
        writer.close()
        assert process.exit_status is None
        await settling.rollback()
        await eventually(lambda: process.exit_status is not None)
        assert process.exit_status == 0
    finally:
        await process.kill()
    states = dict(await _fetch(pg, "SELECT event_id, state FROM relay.events"))
    # What came in while it drained is for others, or for later.
    assert states.pop(second.event_id) in ("pending", "delivered")
    assert states == {first.event_id: "delivered"}
    assert await pg.fetchval("SELECT count(*) FROM relay.batch_note") == 0
    records = await evidence.read_records(kafka, topic_prefix)
    places = [each.place for each in await evidence.read_receipts(pg)]
    assert sorted(places) == sorted(record.place for record in records), "and nothing twice"
    assert process.lines("app.stopped")
    await pg.close()


async def _waits(pg: asyncpg.Connection) -> bool:
    query = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted)"
    )
    return bool(await pg.fetchval(query, "relay.receipt"))


async def _is_closed(port: int) -> bool:
    return (await get(port, "/livez")).status == 0


async def _fetch(pg: asyncpg.Connection, query: str) -> list[Any]:
    return [tuple(row) for row in await pg.fetch(query)]


CANARY = "CANARY1234"
# What is changed, and words of the one line that follows. A value of None takes a variable away.
WRONG: dict[str, tuple[dict[str, str | None], list[str], list[str]]] = {
    "no database": ({"RELAY_DATABASE_URL": None}, [], ["RELAY_DATABASE_URL is not set"]),
    "no Kafka": (
        {"RELAY_KAFKA_BOOTSTRAP_SERVERS": None},
        [],
        ["RELAY_KAFKA_BOOTSTRAP_SERVERS is not set"],
    ),
    "a name that is none": (
        {"RELAY_TOPIC_PARTITION": "3"},
        [],
        ["RELAY_TOPIC_PARTITION is not a setting", "RELAY_TOPIC_PARTITIONS?"],
    ),
    "a value that is none": ({"RELAY_BATCH_ROWS": "many"}, [], ["RELAY_BATCH_ROWS", "'many'"]),
    "a secret that is none": (
        {"RELAY_ENCRYPTION_KEYS": CANARY},
        [],
        ["RELAY_ENCRYPTION_KEYS", "encryption-key new"],
    ),
    "a database that is none": (
        {"RELAY_DATABASE_URL": f"mysql://relay:{CANARY}@db/relay"},
        [],
        ["RELAY_DATABASE_URL", "postgresql://"],
    ),
    "a file that is not there": (
        {"RELAY_DATABASE_URL": None, "RELAY_DATABASE_URL_FILE": "/nowhere/url"},
        [],
        ["RELAY_DATABASE_URL_FILE", "/nowhere/url"],
    ),
    "what would break the promise": (
        {"RELAY_KAFKA_ACKS": "1"},
        [],
        ["RELAY_KAFKA_ACKS cannot be set"],
    ),
    "what librdkafka does not know": (
        {"RELAY_KAFKA_NO_SUCH_THING": CANARY},
        [],
        ["RELAY_KAFKA_NO_SUCH_THING"],
    ),
    "what does not fit together": (
        {"RELAY_FROZEN_AFTER_SECONDS": "5"},
        [],
        ["RELAY_FROZEN_AFTER_SECONDS", "RELAY_BATCH_TIMEOUT_SECONDS"],
    ),
    "an open admin port": ({"RELAY_ADMIN_BIND": "0.0.0.0:0"}, [], ["RELAY_ADMIN_TOKEN"]),
    "an address of somebody else": (
        {"RELAY_BIND": "192.0.2.1:80"},
        [],
        ["RELAY_BIND: cannot listen on 192.0.2.1:80"],
    ),
    "a role that is none": ({}, ["--roles", "reciever"], ["--roles", "'reciever'", "receiver"]),
}


@pytest.mark.parametrize(("changes", "flags", "words"), WRONG.values(), ids=WRONG)
async def test_wrong_settings_are_one_clear_line(
    changes: Mapping[str, str | None], flags: list[str], words: list[str]
) -> None:
    settings: dict[str, str | None] = {
        **environment(
            RELAY_DATABASE_URL=f"postgresql://relay@{NOBODY_LISTENS}/relay",
            RELAY_KAFKA_BOOTSTRAP_SERVERS=NOBODY_LISTENS,
        ),
        **changes,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    status, output, errors = await command("serve", *flags, environment=given)
    told = [line for line in errors.splitlines() if not line.startswith("{")]
    assert status == 2, errors
    assert output == ""
    assert len(told) == 1
    assert told[0].startswith("relay: ")
    for word in words:
        assert word in told[0]
    assert CANARY not in errors
    assert "(hidden)" not in errors, "an example is no secret"
    assert "Traceback" not in errors


async def test_a_port_in_use_is_one_clear_line(database_url: str, tmp_path: Path) -> None:
    settings = environment(RELAY_DATABASE_URL=database_url)
    async with serving("receiver", settings, tmp_path / "log") as process:
        for variable, port in (
            ("RELAY_BIND", process.port),
            ("RELAY_ADMIN_BIND", process.admin_port),
        ):
            taken = settings | {variable: f"127.0.0.1:{port}"}
            status, _, errors = await command("serve", "--roles", "receiver", environment=taken)
            assert status == 2
            last = errors.splitlines()[-1]
            assert last.startswith(f"relay: {variable}: cannot listen on 127.0.0.1:{port}: ")
            assert "Traceback" not in errors
