"""`relay dev`: everything on one machine, kept running until Ctrl-C or SIGTERM.

What is not there is embedded: PostgreSQL unless RELAY_DATABASE_URL is set, the broker unless
RELAY_KAFKA_BOOTSTRAP_SERVERS is. All other settings count as they do for `relay serve`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec

from relay import logs
from relay.app import App, running
from relay.core.errors import ConfigError, RelayError
from relay.dev import dev_source, parts, welcome
from relay.dev.broker import EmbeddedBroker
from relay.dev.dev_source import DevSource
from relay.dev.directory import DataDirectory
from relay.dev.postgres import EmbeddedPostgres
from relay.dev.process import StartError
from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import TEST_KEY
from relay.dev.welcome import Embedded
from relay.settings import Address, Settings, hide_password, librdkafka, load
from relay.store import schema
from relay.store.engine import Database
from relay.store.failures import DATABASE_FAILURES
from relay.store.sealing import Seal, new_key

_LOOK_SECONDS: Final = 1.0
_KAFKA_PORT: Final = 9092
"""Where everybody looks for a broker first."""
_STRIPE_OBJECTS: Final = {
    "customer": 1000,
    "payment_intent": 800,
    "charge": 800,
    "invoice": 600,
    "subscription": 300,
    "product": 40,
    "price": 80,
    "payment_method": 400,
}
"""What the fake of the Stripe API has."""


class PartEndedError(RelayError):
    """An embedded part has ended by itself."""

    default_code = "part_ended"


class Stop:
    """The first signal after the start drains; one before it, or a second one, cuts off."""

    def __init__(self) -> None:
        self.armed = False
        self.asked = asyncio.Event()

    def __call__(self) -> bool:
        """Deal with a signal; false when the whole command is to be cancelled."""
        if not self.armed or self.asked.is_set():
            return False
        self.asked.set()
        return True


def run(port: int, admin_port: int, data_dir: Path, json: bool) -> int:
    """Run until a signal; returns the exit status: 0 when it was ready and told to stop.

    With ``json`` stdout gets one object when all is ready, and nothing else.

    Raises ConfigError for a wrong setting, StartError when a part does not start and
    PartEndedError when one ends.
    """
    given = _with_ports(load(os.environ), port, admin_port)
    logs.configure(given.log_format, given.log_level, given.secrets())
    logs.log_uncaught()
    stop = Stop()
    return parts.run(_run(given, DataDirectory(data_dir), stop, json), on_signal=stop)


def _with_ports(given: Settings, port: int, admin_port: int) -> Settings:
    """The hosts of the environment with the ports of the flags."""
    for name, flag, address, wanted in (
        ("RELAY_BIND", "--port", given.bind, port),
        ("RELAY_ADMIN_BIND", "--admin-port", given.admin_bind, admin_port),
    ):
        if name in os.environ and address.port != wanted:
            raise ConfigError(
                f"{name} says port {address.port}, and {flag} says {wanted}: give {flag}"
                f" {address.port}, or change {name}",
                setting=name,
            )
    if port == admin_port != 0:
        raise ConfigError(f"--port and --admin-port are both {port}: give each its own")
    return msgspec.structs.replace(
        given,
        bind=Address(given.bind.host, port),
        admin_bind=Address(given.admin_bind.host, admin_port),
    )


async def _run(given: Settings, directory: DataDirectory, stop: Stop, json: bool) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr if json else sys.stdout, flush=True)

    async with AsyncExitStack() as stack:
        stack.enter_context(directory.ours())
        _check_port(given.bind, "--port")
        _check_port(given.admin_bind, "--admin-port")
        left = directory.left()
        say("starting")
        embedded = await _start_parts(stack, given, directory, left)
        settings = _completed(given, embedded, left)
        logs.configure(settings.log_format, settings.log_level, settings.secrets())
        # Before anything is sealed with its keys.
        directory.leave(_variables(settings) | _of_dev(left))
        source = await _prepare(settings, left)
        if source.reads_fake:
            stripe = await stack.enter_async_context(FakeStripe(_STRIPE_OBJECTS))
            settings = msgspec.structs.replace(settings, stripe_api_base=stripe.url)
        relay = await _start_relay(stack, settings)
        settings = _with_public_url(settings, relay)
        directory.leave(_variables(settings) | welcome.variables(settings, source))
        show = welcome.Welcome(settings, source, directory, embedded, _admin_url(relay))
        stop.armed = True
        print(show.json() if json else f"{show.text()}\nready", flush=True)
        await _until_stopped(stop, embedded)
        say("stopping: what is in flight is settled first")
    say(f"stopped; the inbox stays in {directory.path}" if embedded.postgres else "stopped")
    return 0


def _check_port(address: Address, flag: str) -> None:
    """Before anything is started. Raises StartError, which names the port and the flag."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.create_server((address.host, address.port), family=family).close()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise StartError(
            f"cannot listen on {address} ({why}): stop what uses it, or choose another port"
            f" with {flag}"
        ) from error


async def _start_parts(
    stack: AsyncExitStack, given: Settings, directory: DataDirectory, left: Mapping[str, str]
) -> Embedded:
    postgres = None if given.database_url else EmbeddedPostgres(directory.postgres)
    broker = None
    if given.kafka_bootstrap_servers is None:
        # The port of the last time, so that consumers find it again.
        host, _, last = left.get("RELAY_KAFKA_BOOTSTRAP_SERVERS", "").rpartition(":")
        port = int(last) if host == "127.0.0.1" and last.isdigit() else _KAFKA_PORT
        taken = (given.bind.port, given.admin_bind.port)
        broker = EmbeddedBroker(
            directory.broker_log, preferred_port=None if port in taken else port
        )
    await parts.start_together(stack, *[part for part in (postgres, broker) if part is not None])
    return Embedded(postgres, broker)


def _completed(given: Settings, embedded: Embedded, left: Mapping[str, str]) -> Settings:
    """The settings with what is embedded, and with the keys of the last start."""
    changes: dict[str, object] = {}
    if embedded.postgres is not None:
        changes["database_url"] = embedded.postgres.dsn
    if embedded.broker is not None:
        changes["kafka_bootstrap_servers"] = embedded.broker.bootstrap_servers
        # librdkafka writes to stderr by itself, for one that the broker has stopped.
        changes["kafka_properties"] = {"log_level": "0", **given.kafka_properties}
    before = [key for key in left.get("RELAY_ENCRYPTION_KEYS", "").split(",") if key]
    keys = dict.fromkeys((*given.encryption_keys, *before))
    changes["encryption_keys"] = tuple(keys) or (new_key(),)
    return msgspec.structs.replace(given, **changes)


def _variables(settings: Settings) -> dict[str, str]:
    """What other commands need to work on the same database and Kafka."""
    values = {
        "RELAY_DATABASE_URL": settings.require_database_url(),
        "RELAY_KAFKA_BOOTSTRAP_SERVERS": settings.require_kafka(),
        "RELAY_ENCRYPTION_KEYS": ",".join(settings.encryption_keys),
    }
    for name, value in settings.kafka_properties.items():
        values[librdkafka.variable_of(name)] = value
    if settings.public_url is not None:
        values["RELAY_PUBLIC_URL"] = settings.public_url
    if settings.stripe_api_base != Settings().stripe_api_base:
        values["RELAY_STRIPE_API_BASE"] = settings.stripe_api_base
    return values


def _of_dev(left: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in left.items() if not name.startswith("RELAY_")}


async def _prepare(settings: Settings, left: Mapping[str, str]) -> DevSource:
    """Schema and source. Raises StartError when the database cannot be used."""
    url = settings.require_database_url()
    try:
        await schema.migrate(url, retention_days=settings.retention_days)
        database = Database(url, pool_size=1, application_name="relay-dev")
        try:
            async with database.begin() as connection:
                seal = Seal(settings.encryption_keys)
                fake_key = None if "RELAY_STRIPE_API_BASE" in os.environ else TEST_KEY
                return await dev_source.ensure(connection, seal, left, fake_key)
        finally:
            await database.close()
    except DATABASE_FAILURES as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise StartError(f"cannot use the database {hide_password(url)}: {why}") from error


async def _start_relay(stack: AsyncExitStack, settings: Settings) -> App:
    try:
        return await stack.enter_async_context(running(settings))
    except ConfigError as error:
        if error.setting not in ("RELAY_BIND", "RELAY_ADMIN_BIND"):
            raise
        # Since it was looked at, somebody else took the port.
        raise StartError(
            f"{error.message}; choose other ports with --port and --admin-port"
        ) from error


def _with_public_url(settings: Settings, relay: App) -> Settings:
    """The address that it listens on, unless the environment knows better."""
    if settings.public_url is not None:
        return settings
    assert relay.receiver is not None
    local = Address(*relay.receiver.addresses[0]).from_here
    return msgspec.structs.replace(settings, public_url=f"http://{local}")


def _admin_url(relay: App) -> str:
    assert relay.admin is not None
    return f"http://{Address(*relay.admin.address)}"


async def _until_stopped(stop: Stop, embedded: Embedded) -> None:
    """Raises PartEndedError when there is no point in going on."""
    while not stop.asked.is_set():
        if embedded.postgres is not None and not _runs(embedded.postgres.pid):
            raise PartEndedError(f"PostgreSQL has ended by itself: see {embedded.postgres.log}")
        if embedded.broker is not None and not _runs(embedded.broker.pid):
            raise PartEndedError(
                f"the broker has ended by itself, and its topics are gone: see"
                f" {embedded.broker.log}"
            )
        try:
            await asyncio.wait_for(stop.asked.wait(), _LOOK_SECONDS)
        except TimeoutError:
            continue


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
