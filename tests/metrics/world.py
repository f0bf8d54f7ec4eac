"""An app with all roles, in this process, and traffic of which every number is known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from relay.app import App, running
from relay.core.source import SourceConfig
from relay.dev.samples import thin_body
from relay.settings import Address, Settings
from relay.store import sources
from relay.store.sealing import Seal, new_key
from tests.acceptance.fleet import get
from tests.acceptance.sender import Webhook, post
from tests.forwarder.world import event
from tests.metrics.scrape import Page
from tests.support.logins import as_login
from tests.support.processes import eventually

SECRET = "whsec_" + "m" * 32


class World:
    """The app and what it was sent."""

    def __init__(self, app: App, seal: Seal, prefix: str) -> None:
        self.app = app
        self._seal = seal
        self._prefix = prefix
        self.secrets = [SECRET, SECRET.removeprefix("whsec_")]
        self.body_bytes = 0

    async def add_source(self, name: str, **settings: Any) -> tuple[int, Webhook]:
        given = {"topic_prefix": self._prefix, "resources": ("customer",)} | settings
        config = SourceConfig(source_id=0, public_id="", name=name, **given)
        sealed = [self._seal.seal(SECRET.encode())]
        async with self.app.database.begin() as connection:
            made, key = await sources.create(
                connection, config, sealed_secrets=sealed, sealed_stripe_key=None
            )
        assert self.app.receiver is not None
        await self.app.receiver.run_once()  # it knows the source now
        self.secrets.append(key)
        path = f"/webhooks/{made.config.public_id}?api_key={key}"
        return made.config.source_id, Webhook(path, SECRET)

    async def post(self, webhook: Webhook, body: bytes) -> tuple[int, Any]:
        """Status and what the answer says."""
        assert self.app.receiver is not None
        answer = await post(self.app.receiver.addresses[0][1], webhook, body)
        if answer.status != 401:
            self.body_bytes += len(body)
        return answer.status, answer.json

    async def scrape(self) -> Page:
        assert self.app.admin is not None
        answer = await get(self.app.admin.address[1], "/metrics")
        assert answer.status == 200
        return Page(answer.body)

    async def scrape_until(self, condition: Callable[[Page], bool]) -> Page:
        """The first page that meets the condition."""
        pages: list[Page] = []

        async def met() -> bool:
            pages[:] = [await self.scrape()]
            return condition(pages[0])

        await eventually(met, deadline=90)
        return pages[0]


@asynccontextmanager
async def all_roles(database_url: str, kafka: str, prefix: str) -> AsyncIterator[World]:
    key = new_key()
    settings = Settings(
        database_url=as_login(database_url, "services"),
        kafka_bootstrap_servers=kafka,
        kafka_properties={"statistics.interval.ms": "100"},
        encryption_keys=(key,),
        bind=Address("127.0.0.1", 0),
        admin_bind=Address("127.0.0.1", 0),
    )
    async with running(settings) as app:
        yield World(app, Seal([key]), prefix)


async def send_known_traffic(world: World) -> None:
    """See the test of its numbers."""
    _, shop = await world.add_source("shop", unselected="FAIL")
    _, quiet = await world.add_source("quiet", unselected="SKIP", mode="test")
    _, strict = await world.add_source("strict", unselected="FAIL", dlq=False)
    paused_id, paused = await world.add_source("paused")
    async with world.app.database.begin() as connection:
        await sources.pause(connection, paused_id)
    stored = 200, {"received": True}
    customers = [event(object_id=f"cus_{number}") for number in range(5)]
    for body in customers:
        assert await world.post(shop, body) == stored
    for body in customers[:2]:
        assert await world.post(shop, body) == (200, {"received": True, "duplicate": True})
    assert await world.post(shop, event("invoice.paid", "in_1")) == stored
    status, told = await world.post(shop, thin_body())
    assert (status, told["dead_letter"]) == (200, "thin_payload")
    forged = Webhook(shop.path, "whsec_another")
    assert (await world.post(forged, customers[0]))[0] == 400
    unknown = Webhook(shop.path + "x", SECRET)
    assert (await world.post(unknown, customers[0]))[0] == 401
    assert await world.post(quiet, event("invoice.paid", "in_2")) == stored
    assert await world.post(quiet, event(livemode=True)) == stored
    assert await world.post(strict, event("invoice.paid", "in_3")) == stored
    assert await world.post(paused, event()) == stored
