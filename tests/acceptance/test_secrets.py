"""No secret in anything that `relay serve` writes or answers, whatever goes wrong.

Every secret is a canary. Each kind of error is provoked at the log level debug, and then all logs
and answers are searched.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from relay.dev import samples
from relay.store.sealing import new_key
from tests.acceptance.fleet import Answer, Serving, create_source, environment, get, read_answer
from tests.acceptance.sender import Webhook, post, sign
from tests.support.databases import Databases
from tests.support.processes import eventually

pytestmark = pytest.mark.slow

SIGNING_SECRET = "whsec_canary0" + "S" * 20
STRIPE_KEY = "sk_test_canary1" + "K" * 20
WRONG_API_KEY = "relay_canary2" + "W" * 36
ADMIN_TOKEN = "canary3-admin-token"
DATABASE_PASSWORD = "canary4-pass/word"
KAFKA_PASSWORD = "canary5-sasl"
IN_THE_BODY = "canary6@customer.example"


def body_of(number: int) -> bytes:
    """A good event with a canary in it."""
    sample = samples.sample("customer.updated", seed=number)
    sample.event["data"]["object"]["email"] = IN_THE_BODY
    return sample.body


GOOD = body_of(0)


class Canaries:
    """The secrets of this test, and all text in which none of them may be."""

    def __init__(self) -> None:
        self.secrets = {
            "signing secret": SIGNING_SECRET,
            "Stripe key": STRIPE_KEY,
            "wrong API key": WRONG_API_KEY,
            "admin token": ADMIN_TOKEN,
            "database password": DATABASE_PASSWORD,
            "database password, escaped": quote(DATABASE_PASSWORD, safe=""),
            "Kafka password": KAFKA_PASSWORD,
            "text of a body": IN_THE_BODY,
        }
        self.written: list[str] = []

    def hear(self, answer: Answer) -> int:
        """Keep an answer for the search; returns its status."""
        self.written.append(answer.body.decode("utf-8", "replace"))
        return answer.status

    def found(self) -> list[str]:
        """The kinds of secrets that are in what was written."""
        text = "\n".join(self.written)
        return [kind for kind, secret in self.secrets.items() if secret in text]


async def raw(port: int, sent: bytes, *, then_leave: bool = False) -> Answer:
    """Send any bytes; what is answered, or status 0 for nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        if then_leave:
            await writer.drain()
            return Answer(0, b"")
        return await read_answer(reader)
    except EOFError:
        return Answer(0, b"")
    finally:
        writer.close()


def hostile_bodies() -> list[bytes]:
    """Genuine by their signature, and no event that can be relayed."""
    sample = samples.sample("customer.created").event
    sample["data"]["object"]["email"] = IN_THE_BODY
    unroutable = sample | {"id": "evt_unroutable", "type": "no_such.thing"}
    illegal = sample | {"id": "evt_illegal", "type": "mal formed.created"}
    thin = samples.thin_body().replace(b"/v1/customers", IN_THE_BODY.encode())
    return [
        samples.to_body(unroutable),
        samples.to_body(illegal),
        thin,
        b'{"email": "%s", ' % IN_THE_BODY.encode(),
        b"\xff\xfe" + IN_THE_BODY.encode(),
        b"[" * 600 + IN_THE_BODY.encode(),
        b'{"id": "evt_\\u0000%s"}' % IN_THE_BODY.encode(),
    ]


async def provoke_clients_errors(process: Serving, webhook: Webhook, canaries: Canaries) -> None:
    """Everything that a client can do wrong, on both ports."""
    good = GOOD
    path, _, _ = webhook.path.partition("?")
    wrong_key = Webhook(f"{path}?api_key={WRONG_API_KEY}", SIGNING_SECRET)
    unknown = Webhook(f"/webhooks/src_none?api_key={WRONG_API_KEY}", SIGNING_SECRET)
    forged = Webhook(webhook.path, "whsec_of_somebody_else")
    for each, status in ((wrong_key, 401), (unknown, 401), (forged, 400)):
        assert canaries.hear(await post(process.port, each, good)) == status
    line = f"POST {webhook.path} HTTP/1.1\r\nhost: relay\r\n".encode()
    length = b"content-length: %d\r\n" % len(good)
    expired = sign(good, SIGNING_SECRET, time.time() - 4000).encode()
    canaries.secrets["signature"] = expired.decode().partition("v1=")[2]
    wrong = {
        line + length + b"stripe-signature: " + expired + b"\r\n\r\n" + good: 400,
        line + length + b"stripe-signature: " + SIGNING_SECRET.encode() + b"\r\n\r\n" + good: 400,
        line + length + b"content-encoding: gzip\r\n\r\n" + good: 415,
        line + b"content-length: 99999999999\r\n\r\n": 413,
        line + b"x-long: " + b"x" * 70_000 + b"\r\n\r\n": 431,
        line + b"transfer-encoding: chunked\r\n\r\n" + STRIPE_KEY.encode() + b"\r\n": 400,
        f"GET {webhook.path} HTTP/1.1\r\nhost: relay\r\n\r\n".encode(): 405,
        f"POST /elsewhere?api_key={WRONG_API_KEY} HTTP/1.1\r\nhost: relay\r\n\r\n".encode(): 404,
        f"nonsense {webhook.path}\r\n\r\n".encode(): 400,
    }
    for sent, status in wrong.items():
        assert canaries.hear(await raw(process.port, sent)) == status, sent[:200]
    for sent in (line, line + length + b"\r\n" + good[:50]):
        await raw(process.port, sent, then_leave=True)
    token = f"/api/x?token={ADMIN_TOKEN}&{webhook.path}"
    assert canaries.hear(await get(process.admin_port, token)) == 401
    canaries.hear(await raw(process.admin_port, f"nonsense {token}\r\n\r\n".encode()))
    for body in hostile_bodies():
        assert canaries.hear(await post(process.port, webhook, body)) == 200


async def take_the_database_away(
    postgres: Databases, database_url: str, process: Serving, webhook: Webhook, canaries: Canaries
) -> None:
    """For a while nobody can connect; then all goes on."""
    name = database_url.rpartition("/")[2]
    admin = await asyncpg.connect(postgres.dsn)
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
    )
    assert canaries.hear(await post(process.port, webhook, GOOD)) == 503
    await eventually(lambda: process.lines("app.database_away"))
    await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    await admin.close()

    async def is_stored() -> bool:
        return canaries.hear(await post(process.port, webhook, GOOD)) == 200

    await eventually(is_stored)
    await eventually(lambda: process.lines("app.service_recovered"))


async def break_the_schema(
    direct_url: str, process: Serving, webhook: Webhook, canaries: Canaries
) -> None:
    """Errors that nobody has thought of: some of their tracebacks are logged."""
    pg = await asyncpg.connect(direct_url)

    async def is_answered(status: int, body: bytes) -> bool:
        return canaries.hear(await post(process.port, webhook, body)) == status

    for number, (table, status) in enumerate((("receipt", 200), ("inbox", 503), ("source", 503))):
        await pg.execute(f"ALTER TABLE relay.{table} RENAME TO broken")
        # What is known of the sources is good for a few seconds.
        await eventually(partial(is_answered, status, body_of(10 + number)))
        if table == "receipt":
            await eventually(lambda: process.lines("forwarder.batch_lost"))
        await pg.execute(f"ALTER TABLE relay.broken RENAME TO {table}")
    fan_out = await pg.fetchval("SELECT fan_out FROM relay.source")
    await pg.execute("UPDATE relay.source SET fan_out = '{no.such}'")
    await eventually(partial(is_answered, 200, body_of(20)))
    await eventually(lambda: process.lines("forwarder.transform_failed"))
    await pg.execute("UPDATE relay.source SET fan_out = $1", fan_out)
    await eventually(lambda: _is_empty(pg))
    await pg.close()


async def _is_empty(pg: asyncpg.Connection) -> bool:
    return not await pg.fetchval("SELECT EXISTS (SELECT FROM relay.queue)")


async def finish(process: Serving, canaries: Canaries) -> set[str]:
    """Stop it in order; what it logged, by the names of its events."""
    assert await process.stop() == 0
    canaries.written.append(process.log.read_text("utf-8"))
    return {line["event"] for line in process.lines()}


async def test_no_secret_is_written(
    postgres: Databases,
    database_url: str,
    direct_url: str,
    kafka: str,
    topic_prefix: str,
    tmp_path: Path,
) -> None:
    canaries = Canaries()
    key, other_key = new_key(), new_key()
    canaries.secrets |= {"encryption key": key, "other encryption key": other_key}
    if password := urlsplit(database_url).password:
        canaries.secrets["the true database password"] = password
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=key,
        RELAY_ADMIN_TOKEN=ADMIN_TOKEN,
        RELAY_LOG_LEVEL="debug",
        # A batch that was lost is tried again soon.
        RELAY_DELIVERY_TIMEOUT_SECONDS="4",
        RELAY_FENCE_MARGIN_SECONDS="1",
    )
    flags = ["--signing-secret", SIGNING_SECRET, "--stripe-api-key", STRIPE_KEY]
    flags += ["--topic-prefix", topic_prefix, "--unselected", "FAIL", "--fan-out", "charge.refunds"]
    source = await create_source("acme", *flags, environment=settings)
    canaries.secrets["API key"] = source["api_key"]
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SIGNING_SECRET)

    process = await Serving("receiver,forwarder,admin", settings, tmp_path / "errors").ready()
    try:
        await provoke_clients_errors(process, webhook, canaries)
        await take_the_database_away(postgres, database_url, process, webhook, canaries)
        await break_the_schema(direct_url, process, webhook, canaries)
        logged = await finish(process, canaries)
    finally:
        await process.kill()
    assert {
        "receiver.signature_refused",
        "app.database_away",
        "forwarder.batch_lost",
        "forwarder.transform_failed",
    } <= logged
    assert logged & {"receiver.database_unavailable", "receiver.batch_failed"}

    # Nobody lets it in: a wrong password here, and there a broker that knows no passwords.
    parts = urlsplit(database_url)
    login = (
        f"{parts.username}:{quote(DATABASE_PASSWORD, safe='')}@{parts.netloc.rpartition('@')[2]}"
    )
    refused = settings | {
        "RELAY_DATABASE_URL": parts._replace(netloc=login).geturl(),
        "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "RELAY_KAFKA_SASL_MECHANISM": "PLAIN",
        "RELAY_KAFKA_SASL_USERNAME": "relay",
        "RELAY_KAFKA_SASL_PASSWORD": KAFKA_PASSWORD,
    }
    process = await Serving("receiver,forwarder", refused, tmp_path / "refused").started()
    try:
        assert canaries.hear(await post(process.port, webhook, GOOD)) == 503
        assert canaries.hear(await get(process.port, "/readyz")) == 503
        await eventually(lambda: process.lines("app.database_away"))
        await eventually(lambda: _logger(process, "relay.kafka.client"), deadline=60)
        assert "receiver.sources_unavailable" in await finish(process, canaries)
    finally:
        await process.kill()

    # The secrets of the database cannot be opened with this key.
    strange = settings | {"RELAY_ENCRYPTION_KEYS": other_key}
    process = await Serving("receiver", strange, tmp_path / "strange").ready()
    try:
        assert canaries.hear(await post(process.port, webhook, GOOD)) == 503
        assert "receiver.secret_unopenable" in await finish(process, canaries)
    finally:
        await process.kill()
    assert canaries.found() == []


def _logger(process: Serving, name: str) -> bool:
    return any(line["logger"] == name for line in process.lines())
