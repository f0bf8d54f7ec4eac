"""The real parts under every test: PostgreSQL and a Kafka-compatible broker.

- RELAY_TEST_DATABASE_URL: a PostgreSQL server to use instead of the embedded one; its role may
  create databases.
- RELAY_TEST_POSTGRES: a major version to run instead of the embedded one; its programs lie where
  Debian's packages put them (`15`: postgresql-15).
- RELAY_TEST_POOLER: `pgbouncer` puts PgBouncer in transaction mode before PostgreSQL.
- RELAY_TEST_BROKER: `embedded` (default) or `apache`, which is Apache Kafka from Maven's jars.
- RELAY_TEST_API_EXAMPLES, RELAY_TEST_API_SEED: see tests/admin/test_openapi.py.
- RELAY_TEST_KAFKA: bootstrap servers of a cluster to use instead of either; RELAY_TEST_BROKER then
  says whether it is Apache's.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from relay.dev.broker import EmbeddedBroker
from relay.dev.postgres import EmbeddedPostgres, Installation
from relay.store.engine import Database
from tests.support.databases import Databases
from tests.support.kafka import ApacheKafka
from tests.support.pgbouncer import PgBouncer
from tests.support.topics import TopicReader


def _given(name: str, default: str | None = None) -> str | None:
    """The value of a variable, which is renamed.

    The relay's own processes would refuse unknown RELAY_ names; workers of xdist inherit the other.
    """
    kept = f"TESTS_{name}"
    if (value := os.environ.pop(f"RELAY_TEST_{name}", None)) is not None:
        os.environ[kept] = value
    return os.environ.get(kept, default)


_DATABASE_URL = _given("DATABASE_URL")
_POSTGRES = _given("POSTGRES")
_POOLER = _given("POOLER")
_BROKER = _given("BROKER", "embedded")
_KAFKA = _given("KAFKA")
_given("API_EXAMPLES")
_given("API_SEED")

# A shell that runs us in the background has SIGINT ignored, and programs that we start inherit
# that: they could not be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each test may open a pool of its own, several processes even more of them.
_SETTINGS = {"max_connections": "300"}


def pytest_report_header() -> str:
    servers = (
        "a server that was named" if _DATABASE_URL else f"PostgreSQL {_POSTGRES or 'embedded'}"
    )
    cluster = "a cluster that was named" if _KAFKA else f"{_BROKER} broker"
    return f"on {servers}, pooler {_POOLER or 'none'}, {cluster}"


@pytest_asyncio.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Databases]:
    """The PostgreSQL server of this run; the fixtures below are what most tests want."""
    async with AsyncExitStack() as running:
        dsn = _DATABASE_URL
        if dsn is None:
            directory = tmp_path_factory.mktemp("postgres")
            server = EmbeddedPostgres(directory, settings=_SETTINGS, installation=_installation())
            dsn = (await running.enter_async_context(server)).dsn
        pooler = None
        if _POOLER is not None:
            if _POOLER != "pgbouncer":
                raise pytest.UsageError(f"RELAY_TEST_POOLER is {_POOLER!r}; it may be pgbouncer")
            pooler = PgBouncer(tmp_path_factory.mktemp("pgbouncer"), dsn)
            await running.enter_async_context(pooler)
        databases = await Databases.connect(dsn, pooler)
        running.push_async_callback(databases.close)
        yield databases


@pytest.fixture(scope="session")
def installation() -> Installation | None:
    """What the server of this run is of; none for the embedded one."""
    return _installation()


def _installation() -> Installation | None:
    if _POSTGRES is None:
        return None
    programs = Path(f"/usr/lib/postgresql/{_POSTGRES}/bin")
    if not programs.is_dir():
        raise pytest.UsageError(
            f"RELAY_TEST_POSTGRES is {_POSTGRES!r}, and there is no {programs}"
            f" (Debian: `postgresql-{_POSTGRES}`)"
        )
    return Installation(int(_POSTGRES), programs)


@pytest_asyncio.fixture
async def database_url(postgres: Databases) -> AsyncIterator[str]:
    """A fresh database at the newest schema revision."""
    url = await postgres.create()
    yield url
    await postgres.drop(url)


@pytest.fixture
def direct_url(postgres: Databases, database_url: str) -> str:
    """The way to the same database past the pooler, where there is one.

    For what a test does to the server itself, and for what belongs to a session.
    """
    return postgres.direct(database_url)


@pytest_asyncio.fixture
async def empty_database_url(postgres: Databases) -> AsyncIterator[str]:
    """A fresh database without our schema."""
    url = await postgres.create_empty()
    yield url
    await postgres.drop(url)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on the fresh database."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest_asyncio.fixture(scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The bootstrap servers of this run's broker."""
    if _KAFKA:
        yield _KAFKA
        return
    directory = tmp_path_factory.mktemp("kafka")
    async with _broker(directory) as broker:
        yield broker.bootstrap_servers


def _broker(directory: Path) -> EmbeddedBroker | ApacheKafka:
    if _BROKER == "embedded":
        return EmbeddedBroker(directory / "broker.log")
    if _BROKER == "apache":
        return ApacheKafka(directory)
    raise pytest.UsageError(f"RELAY_TEST_BROKER is {_BROKER!r}; it may be embedded or apache")


@pytest.fixture(scope="session")
def apache_kafka() -> bool:
    """Whether Kafka's refusals can be tested: the embedded broker refuses nothing."""
    return _BROKER == "apache"


@pytest.fixture
def kafka_reader(kafka: str) -> TopicReader:
    """Reads topics back: `await kafka_reader.read_topic(name, at_least=3)`."""
    return TopicReader(kafka)


@pytest.fixture
def topic_prefix() -> str:
    """A topic prefix of this test alone, since all tests share one cluster."""
    return f"t{secrets.token_hex(5)}-"
