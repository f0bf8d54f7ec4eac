"""No secret in what is kept or said: tables, records, PostgreSQL's log, commands, metrics, `ps`.

The secrets are canaries again. Everything that a source goes through is done once, at the log
level debug and with a server that logs every statement; then all of it is searched, also for their
bytes in hexadecimal, which is how PostgreSQL shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import pytest
from confluent_kafka import Message

from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, command, create_source, environment, get
from tests.acceptance.sender import Webhook, post
from tests.acceptance.test_secrets import (
    ADMIN_TOKEN,
    DATABASE_PASSWORD,
    GOOD,
    IN_THE_BODY,
    SIGNING_SECRET,
    STRIPE_KEY,
    Canaries,
    body_of,
    hostile_bodies,
)
from tests.support.databases import Databases
from tests.support.processes import eventually
from tests.support.topics import TopicReader

pytestmark = pytest.mark.slow

VIEWER_TOKEN = "canary-token-of-a-viewer"

# Where bodies are kept, and nowhere else.
BODIES = {("inbox", "body"), ("dead_letter", "refused_body")}


def traces(text: str, secrets: Mapping[str, str]) -> list[str]:
    """The kinds of secrets that are in a text, as they are or in hexadecimal."""
    return [
        kind
        for kind, secret in secrets.items()
        if secret in text or secret.encode().hex() in text.lower()
    ]


async def columns(pg: asyncpg.Connection) -> list[tuple[str, str]]:
    """Every column of every table of ours; of the partitions those of their parents."""
    rows = await pg.fetch(
        """
        SELECT c.relname, a.attname FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition
        """
    )
    return [(row["relname"], row["attname"]) for row in rows]


async def column_text(pg: asyncpg.Connection, table: str, column: str) -> str:
    found: str | None = await pg.fetchval(
        f'SELECT string_agg("{column}"::text, E\'\\n\') FROM relay."{table}"'
    )
    return found or ""


class ServerLog:
    """What PostgreSQL logs from now on; None where it is not ours to read."""

    def __init__(self, data_directory: str) -> None:
        self._path = Path(data_directory).parent / "server.log"
        self._begin = self._path.stat().st_size if self._path.exists() else 0

    def text(self) -> str | None:
        if not self._path.exists():
            return None
        with self._path.open("rb") as log:
            log.seek(self._begin)
            return log.read().decode("utf-8", "replace")


async def run_commands(settings: dict[str, str], event_id: str) -> list[str]:
    """All that an operator types, and types wrong; what was said."""
    place = urlsplit(settings["RELAY_DATABASE_URL"])
    host = place.netloc.rpartition("@")[2]
    login = f"relay:{quote(DATABASE_PASSWORD, safe='')}"
    wrong_password = place._replace(netloc=f"{login}@{host}").geturl()
    secrets = ("--signing-secret", SIGNING_SECRET, "--stripe-api-key", STRIPE_KEY)
    other_key = {"RELAY_ENCRYPTION_KEYS": new_key()}
    good: tuple[tuple[str, ...], ...] = (
        ("status",),
        ("source", "list"),
        ("source", "show", "acme"),
        ("source", "pause", "acme"),
        ("source", "resume", "acme"),
        ("events", "list"),
        ("dlq", "list"),
        ("dlq", "replay", "--error", "no_route", "--yes", "--reason", "the schema is wider now"),
        ("dlq", "discard", "--error", "thin_payload", "--yes", "--reason", "not ours"),
        ("encryption-key", "rotate"),
        ("housekeeping",),
    )
    said = []
    for arguments in good:
        status, output, errors = await command(*arguments, "--json", environment=settings)
        assert status == 0, errors
        said += [output, errors]
    wrong: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
        (("doctor",), {}),
        (("events", "retry", event_id, "--reason", "again"), {}),
        (("source", "create", "acme", *secrets), {}),
        (("source", "create", "other", *secrets, "--schema", "no such"), {}),
        (("source", "update", "acme", "--mode", "neither", *secrets), {}),
        (("source", "update", "acme", "--remove-signing-secret", SIGNING_SECRET), other_key),
        (("source", "create", "other", *secrets), {"RELAY_ENCRYPTION_KEYS": SIGNING_SECRET}),
        (("encryption-key", "rotate"), other_key),
        (("status",), {"RELAY_DATABASE_URL": wrong_password}),
        (("doctor",), {"RELAY_DATABASE_URL": wrong_password}),
        (("status",), {"RELAY_DATABASE_URL": wrong_password.replace(host, "localhost:1")}),
        (("roles", "apply"), {}),
        (("housekeeping",), {"RELAY_DATABASE_URL": wrong_password}),
    )
    for arguments, change in wrong:
        status, output, errors = await command(*arguments, environment=settings | change)
        assert status != 0 or arguments == ("doctor",), arguments
        said += [output, errors]
    return said


async def look_at_dashboard(port: int, event_id: str) -> list[str]:
    """Everything that the admin port shows to a viewer; an operator acts meanwhile."""
    said = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for token in (ADMIN_TOKEN + "x", VIEWER_TOKEN):
            answer = await client.post("/login", data={"token": token})
            said += [answer.text, str(answer.headers)]
        operator = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        found = await client.get(f"/api/events?event_id={event_id}", headers=operator)
        inbox_id = found.json()["events"][0]["id"]
        acted = await client.post(
            f"/api/events/{inbox_id}/replay", json={"reason": "to look at it"}, headers=operator
        )
        assert acted.status_code == 200, acted.text
        for path in (
            *("/", "/events", f"/events/{inbox_id}", "/dead-letters", "/operator-log", "/schema"),
            *("/api/overview", "/api/events", f"/api/events/{inbox_id}", "/api/operator-log"),
        ):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            said += [answer.text, str(answer.headers)]
    return said


def command_line(pid: int) -> str:
    """What `ps` shows of it."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def head_of(message: Message) -> str:
    """A record without its value."""
    headers = [(name, bytes(value or b"")) for name, value in message.headers() or []]
    return f"{message.topic()} {message.key()!r} {headers!r}"


async def test_no_secret_is_kept(
    postgres: Databases,
    database_url: str,
    direct_url: str,
    kafka: str,
    kafka_reader: TopicReader,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    pg = await asyncpg.connect(direct_url)
    name = await pg.fetchval("SELECT current_database()")
    await pg.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")
    log = ServerLog(await pg.fetchval("SHOW data_directory"))

    key = new_key()
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=key,
        RELAY_ADMIN_TOKEN=ADMIN_TOKEN,
        RELAY_ADMIN_VIEWER_TOKEN=VIEWER_TOKEN,
        RELAY_LOG_LEVEL="debug",
    )
    flags = ["--signing-secret", SIGNING_SECRET, "--stripe-api-key", STRIPE_KEY]
    flags += ["--topic-prefix", topic_prefix, "--unselected", "FAIL"]
    source = await create_source("acme", *flags, environment=settings)
    secrets = Canaries().secrets | {"encryption key": key, "API key": source["api_key"]}
    secrets["viewer token"] = VIEWER_TOKEN
    body = {"text of a body": secrets.pop("text of a body")}
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SIGNING_SECRET)
    forged = Webhook(webhook.path, "whsec_of_somebody_else")

    said = []
    process = await Serving("receiver,forwarder,admin", settings, tmp_path / "log").ready()
    try:
        assert (await post(process.port, webhook, GOOD)).status == 200
        assert (await post(process.port, forged, body_of(1))).status == 400
        for each in hostile_bodies():
            assert (await post(process.port, webhook, each)).status == 200
        unsent = "SELECT count(*) FROM relay.queue"
        sample = "SELECT count(*) FROM relay.dead_letter WHERE refused_body IS NOT NULL"
        await eventually(lambda: _equals(pg, unsent, 0))
        await eventually(lambda: _equals(pg, sample, 1))
        event_id = await pg.fetchval("SELECT min(event_id) FROM relay.events")
        said += await run_commands(settings, event_id)
        await eventually(lambda: _equals(pg, unsent, 0))
        sent = "SELECT min(event_id) FROM relay.events WHERE state = 'delivered'"
        said += await look_at_dashboard(process.admin_port, await pg.fetchval(sent))
        await eventually(lambda: _equals(pg, unsent, 0))
        for path in ("/metrics", "/readyz", "/livez"):
            said.append((await get(process.admin_port, path)).body.decode())
        said.append(command_line(process.pid))
        activity = await pg.fetch("SELECT application_name, query FROM pg_stat_activity")
        said += [f"{row['application_name']} {row['query']}" for row in activity]
        assert await process.stop() == 0
    finally:
        await process.kill()

    # What was said and logged.
    said.append((tmp_path / "log").read_text("utf-8"))
    assert "Traceback" in "\n".join(said)
    assert traces("\n".join(said), secrets | body) == []

    # What the database holds: the bodies where they belong, and secrets nowhere but encrypted.
    found = {}
    for table, column in await columns(pg):
        text = await column_text(pg, table, column)
        found[table, column] = traces(text, secrets | body)
    assert {place: kinds for place, kinds in found.items() if kinds} == {
        place: ["text of a body"] for place in BODIES
    }
    assert await pg.fetchval("SELECT stripe_api_key IS NOT NULL FROM relay.source")

    # What PostgreSQL was told: never a secret, and a body only as a parameter.
    logged = log.text()
    if logged is not None:
        assert "INSERT INTO relay.event_key" in logged
        assert traces(logged, secrets) == []
        assert IN_THE_BODY not in logged

    # What Kafka holds: a body is a value, and nothing else.
    topics = [topic for topic in await kafka_reader.topics() if topic.startswith(topic_prefix)]
    records = [record for topic in topics for record in await kafka_reader.read_topic(topic)]
    assert f"{topic_prefix}dead_letter" in topics
    assert traces("\n".join(map(head_of, records)), secrets | body) == []
    values = b"\n".join(bytes(record.value() or b"") for record in records)
    assert IN_THE_BODY.encode() in values
    assert traces(values.decode("utf-8", "replace"), secrets) == []
    await pg.close()


async def _equals(pg: asyncpg.Connection, statement: str, wanted: int) -> bool:
    return bool(await pg.fetchval(statement) == wanted)


def test_a_secret_would_be_found() -> None:
    secrets = {"one": "whsec_1", "other": "sk_test_2"}
    assert traces("… whsec_1 …", secrets) == ["one"]
    assert traces("\\x" + b"(sk_test_2)".hex().upper(), secrets) == ["other"]
    assert traces("whsec_", secrets) == []
