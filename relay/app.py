"""The composition root and supervisor: what runs in a process, and the only loop.

Every service has ``run_once() -> int``: how much it did. The loop calls it again at once while
there is work, rests when there is none, backs off when it fails, and ends when it is told to.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Literal, cast, get_args

import structlog

from relay import snapshotter
from relay.admin import SAMPLE_SECONDS, AdminServer, Dashboard
from relay.core.errors import ConfigError
from relay.forwarder import Forwarder, Recovery, Shared
from relay.health import Health
from relay.janitor import Janitor
from relay.kafka import Kafka
from relay.metrics import Metrics
from relay.receiver import Limits, Receiver, SourceAddresses
from relay.settings import Address, Settings
from relay.store.engine import Database
from relay.store.failures import is_outage
from relay.store.schema import IncompatibleSchemaError, require_runnable
from relay.store.sealing import Seal
from relay.store.trouble import explain

_log = structlog.get_logger("relay.app")

Role = Literal["receiver", "forwarder", "snapshotter", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

_BACKOFF_SECONDS = (0.2, 5.0)
# One connection looks for new rows often, for the sake of latency; the others only follow when
# there is more than one can do. All three looking often cost a tenth of a core while idle.
_SCOUT_SECONDS = 0.02
_FOLLOWER_SECONDS = 0.25
# Nobody waits for the first page of a snapshot.
_READER_SECONDS = 1.0
_SCHEMA_SECONDS = 2.0
# Objects, net of those that are gone again.
_COLLECT_AFTER = 20_000
# Whoever begins a replay in the dashboard looks at it.
_REPLAYER_SECONDS = 1.0


class Loop:
    """Runs one service until ``stop`` is set; ``run_once`` in hand is always finished."""

    def __init__(
        self, name: str, run_once: Callable[[], Awaitable[int]], *, idle_seconds: float
    ) -> None:
        self._name = name
        self._run_once = run_once
        self._idle_seconds = idle_seconds

    async def run(self, stop: asyncio.Event) -> None:
        failures, told = 0, None
        while not stop.is_set():
            try:
                done = await self._run_once()
            except Exception as error:
                failures += 1
                if _describe(error) != told:  # the same again and again is one piece of news
                    told = _describe(error)
                    self._tell(error)
            else:
                if failures:
                    _log.info("app.service_recovered", service=self._name, failures=failures)
                failures, told = 0, None
                if done:
                    continue
            await self._rest(stop, failures)

    def _tell(self, error: Exception) -> None:
        if isinstance(error, IncompatibleSchemaError):
            _log.error("app.incompatible_schema", service=self._name, reason=error.message)
        elif is_outage(error):
            _log.warning(
                "app.database_away",
                service=self._name,
                error=_describe(error),
                reason=explain(error),
            )
        else:
            _log.error("app.service_failed", service=self._name, exc_info=error)

    async def _rest(self, stop: asyncio.Event, failures: int) -> None:
        if failures:
            least, most = _BACKOFF_SECONDS
            jitter = random.uniform(0.5, 1)  # noqa: S311 - spreads load, protects nothing
            seconds = min(most, least * 2.0 ** min(failures, 10)) * jitter
        else:
            seconds = self._idle_seconds
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            return


class SchemaGuard:
    """Lets services work only on a schema that this build can run on: one may be migrated away
    under a process that was forgotten."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._good_at = -_SCHEMA_SECONDS

    def watched(self, run_once: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[int]]:
        """The same, after a look at the schema that is at most two seconds old."""

        async def look_first() -> int:
            now = asyncio.get_running_loop().time()
            if now - self._good_at >= _SCHEMA_SECONDS:
                async with self._database.begin() as connection:
                    await require_runnable(connection)
                self._good_at = now
            return await run_once()

        return look_first


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def parse_roles(text: str | None) -> tuple[Role, ...]:
    """The roles of a comma list, all of them when there is none. Raises ConfigError."""
    if text is None:
        return ROLES
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in ROLES:
            raise ConfigError(f"--roles: no role {word!r}; roles are {', '.join(ROLES)}")
    if not wanted:
        raise ConfigError(f"--roles: give at least one of {', '.join(ROLES)}")
    return tuple(cast(Role, word) for word in dict.fromkeys(wanted))


class App:
    """What runs in one process. ``start`` it, and ``stop`` it within ``drain_seconds``."""

    def __init__(
        self,
        settings: Settings,
        roles: Collection[Role] = ROLES,
        *,
        receiver_socket: socket.socket | None = None,
    ) -> None:
        database_url = settings.require_database_url()
        if "forwarder" in roles:
            settings.require_kafka()
        self._settings = settings
        self._roles = roles
        self._receiver_socket = receiver_socket
        name = "relay-" + "-".join(sorted(roles))
        self.database = Database(
            database_url,
            pool_size=settings.database_pool_size,
            application_name=name[:60],
            patience_seconds=settings.database_timeout_seconds,
        )
        self.health = Health(self.database)
        self._guard = SchemaGuard(self.database)
        self._stop_intake = asyncio.Event()
        self._stop_rest = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._forwarding: list[asyncio.Task[None]] = []
        self._kafka: Kafka | None = None
        self._snapshots: snapshotter.Shared | None = None
        self.receiver: Receiver | None = None
        self._metrics: Metrics | None = None
        self._dashboard: Dashboard | None = None
        self.admin: AdminServer | None = None

    async def start(self) -> None:
        """Start everything. Nothing outside has to be up: services wait for it by themselves."""
        settings = self._settings
        if "forwarder" in self._roles:
            # First, because only librdkafka knows whether its settings are right.
            self._kafka = self._make_kafka()
        if "receiver" in self._roles:
            self.receiver = await self._start_receiver(Seal(settings.encryption_keys))
        forwarding = None if self._kafka is None else self._start_forwarder(self._kafka)
        if "snapshotter" in self._roles:
            self._start_snapshotter(Seal(settings.encryption_keys))
        janitor = Janitor(self.database, retention_days=settings.retention_days)
        self._spawn("janitor", janitor.run_once, 60.0)
        self._metrics = Metrics(
            self.database,
            receiver=self.receiver,
            forwarding=forwarding,
            snapshots=self._snapshots,
            retention_days=settings.retention_days,
        )
        if "admin" in self._roles:
            self._dashboard = self._start_dashboard()
        handlers = [*self.health.routes(), *self._metrics.routes()]
        self.admin = AdminServer(handlers, self._dashboard)
        with _listening("RELAY_ADMIN_BIND", settings.admin_bind):
            await self.admin.start(settings.admin_bind.host, settings.admin_bind.port)
        _log.info("app.started", roles=sorted(self._roles))

    async def _start_receiver(self, seal: Seal) -> Receiver:
        settings = self._settings
        receiver = Receiver(
            self.database,
            seal,
            health=self.health,
            max_body_bytes=settings.max_body_bytes,
            bytes_in_flight=settings.bytes_in_flight,
            addresses=SourceAddresses(
                settings.stripe_source_addresses,
                file=settings.stripe_source_addresses_file,
                proxies=settings.trusted_proxies,
            ),
            limits=Limits(
                head_seconds=settings.header_timeout_seconds,
                body_seconds=settings.body_timeout_seconds,
            ),
        )
        bind = settings.bind
        with _listening("RELAY_BIND", bind):
            await receiver.start(bind.host, bind.port, sock=self._receiver_socket)
        self._spawn("receiver", receiver.run_once, 2.0, watched=False)  # it looks by itself
        return receiver

    def _make_kafka(self) -> Kafka:
        settings = self._settings
        return Kafka(
            settings.require_kafka(),
            settings.kafka_properties,
            delivery_timeout_seconds=settings.delivery_timeout_seconds,
            auto_create=settings.topic_auto_create,
            partitions=settings.topic_partitions,
            replication_factor=settings.topic_replication_factor,
        )

    def _start_forwarder(self, kafka: Kafka) -> Shared:
        settings = self._settings
        kafka.start()
        shared = Shared(self.database, kafka, settings)
        for number in range(settings.forwarder_connections):
            idle = _SCOUT_SECONDS if number == 0 else _FOLLOWER_SECONDS
            run_once = self._guard.watched(Forwarder(shared).run_once)
            loop = Loop(f"forwarder-{number}", run_once, idle_seconds=idle)
            self._forwarding.append(asyncio.create_task(loop.run(self._stop_intake)))
        self._spawn("recovery", Recovery(shared).run_once, 1.0)
        return shared

    def _start_snapshotter(self, seal: Seal) -> None:
        shared = snapshotter.Shared(self.database, seal, self._settings)
        for number in range(self._settings.snapshot_connections):
            loop = Loop(
                f"snapshotter-{number}",
                self._guard.watched(snapshotter.Snapshotter(shared).run_once),
                idle_seconds=_READER_SECONDS,
            )
            self._forwarding.append(asyncio.create_task(loop.run(self._stop_intake)))
        self._spawn("snapshot-upkeep", snapshotter.Upkeep(shared).run_once, 5.0)
        self._snapshots = shared

    def _start_dashboard(self) -> Dashboard:
        dashboard = Dashboard(
            self.database,
            self._settings,
            kafka=self._kafka,
            answers=None if self.receiver is None else self.receiver.counters.answers,
        )
        self._spawn("dashboard", dashboard.watch.run_once, SAMPLE_SECONDS)
        self._spawn("replayer", dashboard.replayer.run_once, _REPLAYER_SECONDS)
        return dashboard

    def _spawn(
        self,
        name: str,
        run_once: Callable[[], Awaitable[int]],
        idle: float,
        *,
        watched: bool = True,
    ) -> None:
        run_once = self._guard.watched(run_once) if watched else run_once
        loop = Loop(name, run_once, idle_seconds=idle)
        self._tasks.append(asyncio.create_task(loop.run(self._stop_rest), name=name))

    async def stop(self) -> None:
        """Not ready → no new requests → what is in flight is settled → the rest ends."""
        self.health.draining = True
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.drain_seconds
        self._stop_intake.set()
        async with AsyncExitStack() as last:
            last.push_async_callback(self.database.close)
            if self.receiver is not None:
                await self.receiver.stop(max(ends - loop.time() - 1.0, 0.1))
            await _finish(self._forwarding, ends - loop.time())
            self._stop_rest.set()
            await _finish(self._tasks, min(ends - loop.time(), 3.0))
            if self._kafka is not None:
                await self._kafka.close()
            if self._snapshots is not None:
                await self._snapshots.close()
            if self.admin is not None:
                await self.admin.stop()
            if self._dashboard is not None:
                await self._dashboard.watch.close()
            if self._metrics is not None:
                await self._metrics.close()
        _log.info("app.stopped")


@contextmanager
def _listening(setting: str, address: Address) -> Iterator[None]:
    """Have an address that cannot be had told by the setting that asks for it."""
    try:
        yield
    except OSError as error:
        # asyncio repeats the address in the text; the resolver has numbers of its own, below 0.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise ConfigError(
            f"{setting}: cannot listen on {address}: {reason}", setting=setting
        ) from error


async def _finish(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Wait for loops to end; cancel those that do not in time."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=max(seconds, 0.1))
    for task in late:
        _log.warning("app.cut_off", task=task.get_name())
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def running(settings: Settings, roles: Collection[Role] = ROLES) -> AsyncIterator[App]:
    """An app from start to stop, for whoever embeds it."""
    app = App(settings, roles)
    try:
        await app.start()
        yield app
    finally:
        await app.stop()


async def serve(settings: Settings, roles: Collection[Role] = ROLES) -> None:
    """Run until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings, roles):
        _collect_less()
        await stop.wait()
        _log.info("app.draining")


def _collect_less() -> None:
    """Leave what was loaded out of garbage collection, and look for cycles less often.

    A batch makes thousands of objects at a time, none of them in a cycle; by default each few
    hundred of them have the collector go through them, which took a sixth of a forwarder's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
