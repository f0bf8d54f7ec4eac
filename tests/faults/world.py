"""Everything that runs during an attack: servers, ways between them, relay's processes, clients."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec
from alembic.script import ScriptDirectory
from httpx import URL

from relay.dev.stripe_api import FakeStripe
from relay.dev.stripe_api.server import LIVE_KEY
from relay.store.sealing import new_key
from tests.acceptance.checker import Posted
from tests.acceptance.fleet import command, create_source, environment
from tests.acceptance.sender import Webhook
from tests.faults.fleet import Slot
from tests.faults.lanes import Lane
from tests.faults.load import Load
from tests.faults.proxy import Proxies
from tests.faults.servers import Kafka, Postgres
from tests.support.logins import as_login, make_logins
from tests.support.pgbouncer import PgBouncer

SECRET = "whsec_" + "r" * 32
PREFIX = "rig-"
"""Of all topics; `acme-`, `side-` or `shop-` follows."""
OBJECTS = {"customer": 1200, "charge": 800, "invoice": 500}
"""What the fake of the Stripe API has to list."""

# Who connects to the database how.
_SLOTS = {
    "receiver-1": "ways",
    "receiver-2": "pooler",
    "forwarder-1": "ways",
    "forwarder-2": "pooler",
    "forwarder-3": "socket",
    "snapshotter-1": "ways",
}


AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a connection of the rig raises while a fault has the database in its hands."""


class Window(msgspec.Struct):
    """When a fault was there; Unix seconds."""

    fault: str
    began: float
    ended: float


class World:
    """Started by `async with`; `environment` is what a command line on this machine would have."""

    def __init__(self, lane: Lane, seed: int, directory: Path, *, mutant: str = "") -> None:
        self.lane = lane
        self.seed = seed
        self.directory = directory
        self.rng = random.Random(seed)
        self.proxies = Proxies()
        # The path of a Unix socket has to be short.
        self._short = tempfile.TemporaryDirectory(prefix="rig-", ignore_cleanup_errors=True)
        short = Path(self._short.name)
        short.chmod(0o755)
        self.postgres = Postgres(short, self.proxies)
        self.kafka = Kafka(directory / "kafka", self.proxies)
        self.stripe = FakeStripe(OBJECTS, seed=seed)
        self.slots: dict[str, Slot] = {}
        self.windows: list[Window] = []
        self.expected_dead: dict[str, str] = {}
        """Events that the rig sent to become dead letters, with their error codes."""
        self.deleted_topics: dict[str, float] = {}
        """When each of them was made anew; what was in it before is gone."""
        self.deaths: list[tuple[str, float]] = []
        """SIGKILLs: which slot, and when."""
        self.thaws: list[float] = []
        """When a frozen process went on, or what it had sent."""
        self.recoveries: list[tuple[str, float]] = []
        """When something came back that was away."""
        self.uploaded: list[Posted] = []
        """Large requests that nobody repeats; some were stored."""
        self.snapshots: list[str] = []
        self.previous_revision = ""
        self.environment: dict[str, str] = {}
        self.load: Load
        self.side: Load
        self._mutant = mutant
        self._stack = AsyncExitStack()
        self._supervisors: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> World:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._stack.callback(self._short.cleanup)
        await self.proxies.start(self.directory / "proxies.log")
        self._stack.push_async_callback(self.proxies.stop)
        self._stack.callback(self.postgres.stop)
        self._stack.callback(self.kafka.stop)
        await asyncio.gather(self.postgres.start(), self.kafka.start())
        await make_logins(self.postgres.server.dsn)
        await self._stack.enter_async_context(self.stripe)
        vip = self.proxies.ports["bouncer>primary"]
        dsn = self.postgres.server.dsn.replace(f":{self.postgres.server.port}/", f":{vip}/")
        pooler = PgBouncer(
            self.directory / "pgbouncer",
            dsn,
            settings={"default_pool_size": "14", "server_connect_timeout": "3"}
            | self.lane.pooler_settings,
        )
        await asyncio.to_thread(pooler.start)
        self._stack.callback(pooler.stop)
        urls = {"pooler": pooler.url(dsn), "socket": self.postgres.url_by_socket()}
        stripe = URL(self.stripe.url)
        assert stripe.port is not None
        way = await self.proxies.open("snapshotter>stripe", stripe.port)
        self.environment = environment(
            RELAY_DATABASE_URL=self.postgres.server.dsn,
            RELAY_ENCRYPTION_KEYS=new_key(),
            RELAY_STRIPE_API_BASE=str(stripe.copy_with(port=way)),
            RELAY_TOPIC_REPLICATION_FACTOR="3",
            RELAY_LOG_LEVEL="info",
            **self.kafka.settings,
            **self.lane.settings,
        )
        status, _, errors = await command("migrate", environment=self.environment)
        assert status == 0, errors
        self.previous_revision = await asyncio.to_thread(_previous_revision)
        acme = await self._source("acme")
        side = await self._source("side")
        await self._source("shop", "--stripe-api-key", LIVE_KEY, "--schema", ",".join(OBJECTS))
        for name, how in _SLOTS.items():
            role = name.partition("-")[0]
            url = await self.postgres.url(role) if how == "ways" else urls[how]
            login = {"RELAY_DATABASE_URL": as_login(url, role)}
            hooks = {"FAULTS_RIG": "1"} | ({"FAULTS_MUTANT": self._mutant} if self._mutant else {})
            settings = {**self.environment, **login, **hooks}
            if role == "receiver":
                await self.proxies.open(f"client>{name}", 1)
            self.slots[name] = Slot(name, settings, self.directory, self.proxies)
            self.slots[name].start()
        self._stack.push_async_callback(self._stop_slots)
        await asyncio.gather(*[slot.started() for slot in self.slots.values()])
        self._supervisors = [asyncio.create_task(slot.supervise()) for slot in self.slots.values()]
        rate = self.lane.events_per_second
        self.load = Load(acme, self.receiver_ports, self.rng, events_per_second=rate)
        self.side = Load(side, self.receiver_ports, self.rng, events_per_second=rate)

    async def _stop_slots(self) -> None:
        for task in self._supervisors:
            task.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        self.statuses = await asyncio.gather(*[slot.stop() for slot in self.slots.values()])

    async def stop_processes(self) -> list[int | None]:
        """SIGTERM to all of relay; their exit statuses."""
        await self._stop_slots()
        return self.statuses

    async def _source(self, name: str, *flags: str) -> Webhook:
        given = ("--signing-secret", SECRET, "--topic-prefix", f"{PREFIX}{name}-", *flags)
        made = await create_source(name, *given, environment=self.environment)
        return Webhook(f"/webhooks/{made['id']}?api_key={made['api_key']}", SECRET)

    def receiver_ports(self) -> list[int]:
        """Where clients find the receivers; a balancer would leave out those that are not ready."""
        return [
            self.proxies.ports[f"client>{name}"]
            for name, slot in self.slots.items()
            if slot.role == "receiver" and slot.is_at_work
        ]

    def of_role(self, role: str) -> list[Slot]:
        return [slot for slot in self.slots.values() if slot.role == role]

    async def relay(self, *arguments: str) -> Any:
        """A command that has to work, with `--json`; what it told."""
        current = self.environment | {"RELAY_DATABASE_URL": self.postgres.server.dsn}
        status, output, errors = await command(*arguments, "--json", environment=current)
        assert status == 0, f"relay {' '.join(arguments)}: {errors}"
        return json.loads(output) if output.strip() else None

    async def is_settled(self, event_id: str) -> bool:
        """Whether an event is stored and nothing is left to do for it."""
        state = await self.ask("SELECT state FROM relay.events WHERE event_id = $1", event_id)
        return state not in (None, "pending", "retrying")

    async def ask(self, query: str, *arguments: object) -> Any:
        """One value out of the primary; None while it is away."""
        with suppress(*AWAY):
            pg = await self.postgres.connect()
            try:
                return await pg.fetchval(query, *arguments)
            finally:
                pg.terminate()
        return None

    def tell(self, text: str, **figures: Any) -> None:
        """A line of the report, with the seconds since the load began."""
        words = " ".join(f"{name}={value}" for name, value in figures.items())
        print(f"{time.time() - self.began:7.1f} s  {text}  {words}".rstrip(), flush=True)

    began: float = 0.0


def _previous_revision() -> str:
    script = ScriptDirectory("migrations")
    head = script.get_revision("head")
    assert head is not None
    assert isinstance(head.down_revision, str)
    return head.down_revision
