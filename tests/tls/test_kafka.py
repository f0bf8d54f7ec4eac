"""Kafka with TLS and SASL: what gets through, what does not, and what is said and done then."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from confluent_kafka.admin import AclOperation
from structlog.testing import capture_logs

from relay.core.errors import ConfigError
from relay.dev import samples
from relay.kafka import TopicReader, producer
from relay.settings import load
from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, command, create_source, environment
from tests.acceptance.sender import Webhook, post
from tests.forwarder.world import Process, World, event, id_of
from tests.support.certificates import Authority
from tests.support.processes import eventually
from tests.tls.brokers import LESSER, PASSWORD, USER, SecureKafka

SECRET = "whsec_" + "t" * 32
Variables = dict[str, str]


def login(secure: SecureKafka, mechanism: str = "SCRAM-SHA-512") -> Variables:
    """The settings of a client that logs in over TLS."""
    return {
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": secure.servers("LOGIN"),
        "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "RELAY_KAFKA_SASL_MECHANISM": mechanism,
        "RELAY_KAFKA_SASL_USERNAME": USER,
        "RELAY_KAFKA_SASL_PASSWORD": PASSWORD,
        "RELAY_KAFKA_SSL_CA_LOCATION": str(secure.authority.certificate),
    }


def mutual(secure: SecureKafka, signer: Authority, **choices: Any) -> Variables:
    """Those of one that shows a certificate of its own."""
    pair = signer.issue("client", (), **choices)
    return {
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": secure.servers("MUTUAL"),
        "RELAY_KAFKA_SECURITY_PROTOCOL": "SSL",
        "RELAY_KAFKA_SSL_CA_LOCATION": str(secure.authority.certificate),
        "RELAY_KAFKA_SSL_CERTIFICATE_LOCATION": str(pair.certificate),
        "RELAY_KAFKA_SSL_KEY_LOCATION": str(pair.key),
    }


def process_of(world: World, variables: Variables, **changes: Any) -> Process:
    """A forwarder process with these settings."""
    given = load(variables)
    return world.process(
        kafka_bootstrap_servers=given.kafka_bootstrap_servers,
        kafka_properties=given.kafka_properties,
        **changes,
    )


@pytest_asyncio.fixture
async def disguised(secure_kafka: SecureKafka) -> AsyncIterator[SecureKafka]:
    """The broker, which has its proper certificate and password again afterwards."""
    yield secure_kafka
    await secure_kafka.present(secure_kafka.certificate)
    await secure_kafka.set_password()


@pytest.fixture
def ways(secure_kafka: SecureKafka, authority: Authority, tmp_path: Path) -> dict[str, Variables]:
    """Every way of getting in, by name."""
    scram, plain = login(secure_kafka), login(secure_kafka, "PLAIN")
    plain["RELAY_KAFKA_SASL_MECHANISMS"] = plain.pop("RELAY_KAFKA_SASL_MECHANISM")
    files = dict(scram)
    (tmp_path / "password").write_text(files.pop("RELAY_KAFKA_SASL_PASSWORD") + "\n")
    files["RELAY_KAFKA_SASL_PASSWORD_FILE"] = str(tmp_path / "password")
    files["RELAY_KAFKA_SSL_CA_PEM"] = Path(files.pop("RELAY_KAFKA_SSL_CA_LOCATION")).read_text()
    sealed = mutual(secure_kafka, authority, passphrase="open sesame")
    sealed["RELAY_KAFKA_SSL_KEY_PASSWORD"] = "open sesame"
    inline = mutual(secure_kafka, authority)
    for part in ("CERTIFICATE", "KEY"):
        path = inline.pop(f"RELAY_KAFKA_SSL_{part}_LOCATION")
        inline[f"RELAY_KAFKA_SSL_{part}_PEM"] = Path(path).read_text()
    inline["RELAY_KAFKA_SSL_KEY_PEM_FILE"] = str(tmp_path / "key")
    (tmp_path / "key").write_text(inline.pop("RELAY_KAFKA_SSL_KEY_PEM"))
    return {
        "scram": scram,
        "plain": plain,
        "scram from files": files,
        "mutual": mutual(secure_kafka, authority),
        "mutual with a passphrase": sealed,
        "mutual from text": inline,
    }


WAYS = [
    *("scram", "plain", "scram from files"),
    *("mutual", "mutual with a passphrase", "mutual from text"),
]


@pytest.mark.parametrize("way", WAYS)
async def test_an_event_gets_through(world: World, ways: dict[str, Variables], way: str) -> None:
    source = await world.add_source()
    body = event()
    (inbox_id,) = await world.put(source, body)
    process = process_of(world, ways[way])
    await eventually(lambda: _drained(process, world))
    assert await world.state_of(inbox_id) == "delivered"
    (receipt,) = await world.fetch("SELECT * FROM relay.deliveries")
    assert (receipt["topic"], receipt["offset"]) == (f"{world.prefix}customer", 0)
    given = load(ways[way])
    reader = TopicReader(given.require_kafka(), given.kafka_properties)
    assert reader.topics()[f"{world.prefix}customer"] == 3
    reader.close()


async def _drained(process: Process, world: World) -> bool:
    await world.make_due()
    await process.drain()
    return not await world.queued()


def wrong(secure: SecureKafka, stranger: Authority, authority: Authority) -> dict[str, Variables]:
    """Clients that do not get in, by what the operator has to look at."""
    scram = login(secure)
    port = secure.broker.bootstrap_servers
    return {
        "RELAY_KAFKA_SASL_PASSWORD": scram | {"RELAY_KAFKA_SASL_PASSWORD": "wrong"},
        "RELAY_KAFKA_SASL_USERNAME": login(secure, "PLAIN")
        | {"RELAY_KAFKA_SASL_USERNAME": "nobody"},
        "RELAY_KAFKA_SASL_MECHANISM to one of PLAIN,SCRAM-SHA-512": scram
        | {"RELAY_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"},
        "RELAY_KAFKA_SSL_CA_LOCATION": scram
        | {"RELAY_KAFKA_SSL_CA_LOCATION": str(stranger.certificate)},
        "another RELAY_KAFKA_SECURITY_PROTOCOL than plaintext": {
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": secure.servers("LOGIN")
        },
        "another RELAY_KAFKA_SECURITY_PROTOCOL than ssl": {
            name: scram[name]
            for name in ("RELAY_KAFKA_BOOTSTRAP_SERVERS", "RELAY_KAFKA_SSL_CA_LOCATION")
        }
        | {"RELAY_KAFKA_SECURITY_PROTOCOL": "SSL"},
        "does not speak TLS": scram | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": port},
        "takes no login": mutual(secure, authority)
        | {"RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
        | {name: scram[name] for name in scram if "_SASL_" in name},
        "RELAY_KAFKA_SSL_CERTIFICATE_LOCATION": mutual(secure, stranger),
        "RELAY_KAFKA_SSL_KEY_LOCATION": mutual(secure, authority, lifetime=timedelta(days=-1)),
        "no such host": scram | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": "no-such-host.invalid:9092"},
        "nobody listens": scram | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
    }


@pytest.mark.slow
async def test_who_does_not_get_in_is_told_what_to_look_at(
    world: World, secure_kafka: SecureKafka, stranger: Authority, authority: Authority
) -> None:
    """And nothing else happens: no attempt is consumed, nothing dies."""
    source = await world.add_source()
    await world.put(source, event())
    for words, variables in wrong(secure_kafka, stranger, authority).items():
        with capture_logs() as lines:
            process = process_of(world, variables)

            async def told(process: Process = process, words: str = words) -> bool:
                assert await process.drain() == 0
                return words in (process.kafka.trouble or "")

            try:
                await eventually(told)
            except TimeoutError:
                raise AssertionError(f"{words!r} is not in {process.kafka.trouble!r}") from None
        fixes = [str(line.get("fix", line.get("reason"))) for line in lines]
        assert fixes, "it is in the log"
        given = load(variables)
        reader = TopicReader(given.require_kafka(), given.kafka_properties)
        with pytest.raises(ConnectionError) as refusal:
            await asyncio.to_thread(reader.topics, 3.0)
        reader.close()
        assert words in str(refusal.value)
        (row,) = await world.waiting()
        assert (row["attempts"], row["code"]) == (0, None), "nothing was claimed"


async def test_a_password_that_the_broker_learns_is_enough(
    world: World, disguised: SecureKafka
) -> None:
    source = await world.add_source()
    await world.put(source, event())
    variables = login(disguised) | {"RELAY_KAFKA_SASL_PASSWORD": "tomorrow's"}
    process = process_of(world, variables)
    await eventually(lambda: _is_down(process, world))
    await disguised.set_password("tomorrow's")
    await eventually(lambda: _drained(process, world))
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0
    assert process.kafka.trouble is None


async def _is_down(process: Process, world: World) -> bool:
    await process.drain()
    return process.kafka.is_down


async def test_what_the_login_may_not_do_waits_until_it_may(
    world: World, secure_kafka: SecureKafka
) -> None:
    """And what it needs is what the documentation says."""
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    variables = login(secure_kafka, "PLAIN") | {"RELAY_KAFKA_SASL_USERNAME": LESSER}
    process = process_of(world, variables, probe_seconds=0.1)

    async def is_refused() -> bool:
        await world.make_due()
        await process.drain()
        return (await world.waiting())[0]["code"] == "kafka_topic_authorization_failed"

    await eventually(is_refused)
    (row,) = await world.waiting()
    assert (row["attempts"], "authorization" in row["error"].lower()) == (0, True)
    await secure_kafka.allow(
        world.prefix, AclOperation.DESCRIBE, AclOperation.WRITE, AclOperation.CREATE
    )
    await eventually(lambda: _drained(process, world))
    assert await world.ids_in("customer") == [id_of(body)]
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0


@pytest.mark.parametrize("what", ["another name", "a day too old"])
async def test_a_broker_with_a_wrong_certificate_is_not_believed(
    world: World, disguised: SecureKafka, authority: Authority, what: str
) -> None:
    pair = (
        authority.issue("broker", ("kafka.example.com",))
        if what == "another name"
        else authority.issue("broker", lifetime=timedelta(days=-1))
    )
    await disguised.present(pair)
    source = await world.add_source()
    body = event()
    await world.put(source, body)
    process = process_of(world, login(disguised))
    await eventually(lambda: _is_down(process, world))
    await eventually(lambda: "certificate does not hold" in (process.kafka.trouble or ""))
    assert await world.topic("customer") == []
    await disguised.present(disguised.certificate)
    await eventually(lambda: _drained(process, world))
    assert await world.ids_in("customer") == [id_of(body)]


async def test_files_that_were_renewed_are_read_again_by_itself(
    world: World,
    secure_kafka: SecureKafka,
    stranger: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(producer, "_RENEW_SECONDS", 0.0)
    cas = tmp_path / "cas.pem"
    shutil.copyfile(stranger.certificate, cas)
    source = await world.add_source()
    await world.put(source, event())
    process = process_of(world, login(secure_kafka) | {"RELAY_KAFKA_SSL_CA_LOCATION": str(cas)})
    await eventually(lambda: _is_down(process, world))
    cas.unlink()
    with pytest.raises(ConfigError, match="RELAY_KAFKA_SSL_CA_LOCATION"):  # noqa: PT012
        while True:
            await process.drain()
    shutil.copyfile(secure_kafka.authority.certificate, cas)
    await eventually(lambda: _drained(process, world))
    assert await world.value("SELECT max(attempts) FROM relay.receipt") == 0


def test_a_file_that_cannot_be_used_stops_the_start(secure_kafka: SecureKafka) -> None:
    given = load(login(secure_kafka) | {"RELAY_KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem"})
    with pytest.raises(ConfigError, match=r"RELAY_KAFKA_SSL_CA_LOCATION: .*is the file there"):
        TopicReader(given.require_kafka(), given.kafka_properties)


@pytest.mark.slow
async def test_from_a_webhook_to_relay_tail(
    database_url: str, secure_kafka: SecureKafka, topic_prefix: str, tmp_path: Path
) -> None:
    """Processes as an operator starts them, the password in a file."""
    variables = login(secure_kafka)
    (tmp_path / "password").write_text(variables.pop("RELAY_KAFKA_SASL_PASSWORD"))
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_ENCRYPTION_KEYS=new_key(),
        RELAY_KAFKA_SASL_PASSWORD_FILE=str(tmp_path / "password"),
        **variables,
    )
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    (sample,) = samples.events(1, types=["customer.created"])
    process = await Serving("receiver,forwarder", settings, tmp_path / "log").ready()
    try:
        assert (await post(process.port, webhook, sample.body)).status == 200
        await eventually(lambda: _is_delivered(settings), deadline=60)
        tail = ("tail", f"{topic_prefix}customer", "--from-beginning", "-n", "1", "--json")
        status, output, errors = await command(*tail, environment=settings)
        assert status == 0, errors
        assert json.loads(output)["headers"]["_event_id"] == sample.event_id
        (tmp_path / "password").write_text("wrong")
        status, _, errors = await command(*tail, environment=settings)
        assert status == 1
        assert "RELAY_KAFKA_SASL_PASSWORD" in errors
        status, output, _ = await command("status", "--json", environment=settings)
        assert status == 0
        assert json.loads(output)["kafka"]["reachable"] is False
        assert any("RELAY_KAFKA_SASL_PASSWORD" in each for each in json.loads(output)["warnings"])
        assert PASSWORD not in process.log.read_text()
        assert await process.stop() == 0
    finally:
        await process.kill()


async def _is_delivered(settings: Variables) -> bool:
    status, output, errors = await command(
        "events", "list", "--state", "delivered", "--json", environment=settings
    )
    assert status == 0, errors
    return bool(json.loads(output))
