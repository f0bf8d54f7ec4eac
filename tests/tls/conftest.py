"""Certificates and the servers that have them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from relay.dev.postgres import EmbeddedPostgres, Installation
from relay.store.engine import Database
from tests.forwarder.world import World
from tests.support.certificates import Authority
from tests.tls.brokers import SecureKafka
from tests.tls.servers import TlsServer


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="session")
def authority(certificates: Path) -> Authority:
    """The one that signs for all who shall trust each other."""
    return Authority(certificates)


@pytest.fixture(scope="session")
def stranger(certificates: Path) -> Authority:
    """One that nobody trusts."""
    return Authority(certificates, "stranger")


@pytest_asyncio.fixture(scope="session")
async def tls_server(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> AsyncIterator[TlsServer]:
    directory = tmp_path_factory.mktemp("tls-postgres")
    async with EmbeddedPostgres(directory, installation=_with_tls()) as server:
        made = TlsServer(server, authority)
        await made.set_up()
        yield made


@pytest_asyncio.fixture(scope="session")
async def secure_kafka(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, apache_kafka: bool
) -> AsyncIterator[SecureKafka]:
    if not apache_kafka:
        pytest.skip("RELAY_TEST_BROKER=apache: the embedded broker speaks neither TLS nor SASL")
    secure = SecureKafka(tmp_path_factory.mktemp("tls-kafka"), authority)
    async with secure.broker:
        await secure.set_password()
        yield secure


@pytest_asyncio.fixture
async def world(
    database: Database, secure_kafka: SecureKafka, topic_prefix: str
) -> AsyncIterator[World]:
    """The forwarder's world, which looks at the topics by the plain listener."""
    world = World(database, secure_kafka.broker.bootstrap_servers, topic_prefix)
    yield world
    await world.close()


def _with_tls() -> Installation:
    """Debian's PostgreSQL: the one of the Python package is built without TLS."""
    found = [
        Installation(int(programs.parent.name), programs)
        for programs in Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    ]
    if not found:
        pytest.skip("needs a PostgreSQL with TLS (Debian: `postgresql`)")
    return max(found)
