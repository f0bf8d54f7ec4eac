"""The pictures of the documentation: `make screenshots`.

A whole relay on throw-away parts, as in `relay demo`: most events are delivered, some are dead, one
source has halted and another one is paused, and a snapshot is under way. What was sent
and read is the same each time; times and the ids that relay makes are not.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import asyncpg
import httpx
from playwright.async_api import Browser

from relay import logs
from relay.admin.overview import SAMPLE_SECONDS, Rate
from relay.app import App, running
from relay.core.source import SourceConfig
from relay.dev import parts, samples, traffic
from relay.dev.broker import EmbeddedBroker
from relay.dev.postgres import EmbeddedPostgres
from relay.dev.sender import Endpoint, Sender
from relay.dev.stripe_api import FakeStripe
from relay.dev.traffic import Expected, Posting
from relay.settings import load
from relay.store import schema, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.browser.chromium import chromium
from tests.support.processes import eventually

_BILLING = SourceConfig(
    source_id=0,
    public_id="",
    name="billing",
    resources=("invoice", "customer"),
    topic_prefix="billing-",
    unselected="FAIL",
    dlq=False,
)
_SOURCES = (traffic.SHOP, traffic.MARKETPLACE, _BILLING)
_OBJECTS = {"customer": 4000, "charge": 3000, "invoice": 3000, "payment_intent": 3000}
_MIXED = (
    ("shop", "invoice.paid"),
    ("marketplace", "transfer.created"),
    ("shop", "customer.updated"),
    ("billing", "charge.refunded"),
    ("shop", "charge.succeeded"),
    ("billing", "invoice.finalized"),
    ("marketplace", "account.updated"),
)
_NONE_WAITS = "SELECT sum(pending) = 0 FROM relay.lag WHERE source = ANY ($1)"
_WIDE, _NARROW = (1440, 900), (360, 780)
_PICTURES: Final[tuple[tuple[str, str, tuple[int, int], Literal["light", "dark"]], ...]] = (
    ("overview", "/", (1440, 1000), "light"),
    ("overview-dark", "/", (1440, 1000), "dark"),
    ("overview-narrow", "/", _NARROW, "light"),
    ("events", "/events?since=1h&until={until}", (1440, 560), "light"),
    ("event", "/events/{event}", (1440, 1000), "light"),
    ("event-narrow", "/events/{dead}", _NARROW, "dark"),
    ("dead-letters", "/dead-letters", (1440, 700), "light"),
    ("replay-plan", "/replays/new?of=dead-letters&error=invalid_topic", (1440, 640), "light"),
    ("snapshot", "/snapshots/{snapshot}", (1440, 640), "light"),
)


async def take(program: str, directory: Path) -> None:
    """All pictures, into a directory."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-pictures-"))
        # Root's PostgreSQL runs as another user, who has to pass.
        os.chmod(place, 0o711)
        url, dsn = await _relay(stack, Path(place))
        browser = await stack.enter_async_context(chromium(program))
        await _pictures(browser, url, dsn, directory)


async def _relay(stack: AsyncExitStack, place: Path) -> tuple[str, str]:
    """Its dashboard's address and its database, when everything was sent."""
    postgres = EmbeddedPostgres(place / "postgres")
    broker = EmbeddedBroker(place / "broker.log")
    await parts.start_together(stack, postgres, broker)
    stripe = await stack.enter_async_context(FakeStripe(_OBJECTS))
    settings = load(
        {
            "RELAY_DATABASE_URL": postgres.dsn,
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "RELAY_KAFKA_LOG_LEVEL": "0",
            "RELAY_ENCRYPTION_KEYS": new_key(),
            "RELAY_STRIPE_API_BASE": stripe.url,
            # So slow that a snapshot is under way in every picture.
            "RELAY_STRIPE_RATE_SHARE": "0.05",
            "RELAY_BIND": "127.0.0.1:0",
            "RELAY_ADMIN_BIND": "127.0.0.1:0",
            "RELAY_LOG_LEVEL": "error",
        }
    )
    logs.configure(settings.log_format, settings.log_level, settings.secrets())
    await schema.migrate(postgres.dsn)
    endpoints = await _sources(postgres.dsn, Seal(settings.encryption_keys), stripe)
    app = await stack.enter_async_context(running(settings))
    assert app.receiver is not None
    assert app.admin is not None
    host, port = app.receiver.addresses[0]
    sender = Sender(f"http://{host}:{port}", endpoints)
    async with _connected(postgres.dsn) as pg:
        await sender.send([*traffic.lines(600), _dying()])
        await _until(pg, _NONE_WAITS, [each.name for each in _SOURCES])
        await pg.execute("UPDATE relay.source SET paused_at = now() WHERE name = 'marketplace'")
        await sender.send([_mixed()])
        await _until(pg, _NONE_WAITS, [traffic.SHOP.name])
    _hour_of_traffic(app)
    return f"http://127.0.0.1:{app.admin.address[1]}", postgres.dsn


async def _sources(dsn: str, seal: Seal, stripe: FakeStripe) -> dict[str, Endpoint]:
    endpoints = {}
    database = Database(dsn, pool_size=1)
    async with database.begin() as connection:
        for config in _SOURCES:
            secret = "whsec_" + secrets.token_urlsafe(24)
            made, key = await sources.create(
                connection,
                config,
                sealed_secrets=[seal.seal(secret.encode())],
                sealed_stripe_key=seal.seal(stripe.key.encode()),
            )
            path = f"/webhooks/{made.config.public_id}?api_key={key}"
            endpoints[config.name] = Endpoint(path, secret)
    await database.close()
    return endpoints


def _mixed() -> Iterator[Posting]:
    """What waits at the end: one source halts at what is not in its schema, one is paused."""
    for number, (source, event_type) in enumerate(_MIXED * 16):
        event = samples.sample(event_type, seed=5000 + number)
        # What becomes of it is not checked here.
        yield Posting(source, event.event_id, event.body, Expected("delivered"))


def _dying() -> Iterator[Posting]:
    for seed in range(6000, 6009):
        yield from traffic.specials(seed)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    pg = await asyncpg.connect(dsn)
    try:
        yield pg
    finally:
        await pg.close()


async def _until(pg: asyncpg.Connection, condition: str, *values: object) -> None:
    async def holds() -> bool:
        return bool(await pg.fetchval(condition, *values))

    await eventually(holds, deadline=120)


def _hour_of_traffic(app: App) -> None:
    """What the chart would show after an hour, which nobody waits for here."""
    assert app._dashboard is not None
    now, rates = datetime.now(UTC), app._dashboard.watch._rates
    rates.clear()
    noise = random.Random(0)
    for number in range(int(3600 / SAMPLE_SECONDS) - 1, -1, -1):
        wave = 95 + 14 * math.sin(number / 41) + 6 * math.sin(number / 7) + 16 * noise.random()
        # Kafka was away for some minutes, and then everything was sent that had waited.
        sent = 0.0 if 190 < number < 215 else wave * (2.6 if 175 < number <= 190 else 1.4)
        at = now - timedelta(seconds=number * SAMPLE_SECONDS)
        rates.append(Rate(at, wave, sent))


async def _pictures(browser: Browser, url: str, dsn: str, directory: Path) -> None:
    async with _connected(dsn) as pg:
        at = await _acted(pg, url)
    for name, path, size, scheme in _PICTURES:
        context = await browser.new_context(
            base_url=url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        page = await context.new_page()
        await page.goto(path.format_map(at))
        picture = await page.screenshot(path=directory / f"{name}.png")
        print(f"{name}.png {len(picture) // 1000} kB")
        await context.close()


async def _acted(pg: asyncpg.Connection, url: str) -> dict[str, str]:
    """What operators did before; where things are that the pictures show."""
    headers = {"authorization": "Bearer any", "x-relay-operator": "Ana"}
    async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as api:
        thin = await pg.fetchval(
            "SELECT min(inbox_id) FROM relay.dead_letters WHERE error_code = 'thin_payload'"
        )
        await _act(api, f"/api/events/{thin}/discard", "a test endpoint, which is gone")
        again = {"of": "events", "object": "cus_RelayDemo03"}
        await _act(api, "/api/replays", "the search index was made anew", **again)
        until = datetime.now(UTC).isoformat(timespec="seconds")
        begun = await _act(api, "/api/snapshots", "the initial load", source="shop")
    await _until(pg, "SELECT pages >= 12 FROM relay.snapshots WHERE id = $1", begun["id"])
    event = await pg.fetchval(
        "SELECT max(id) FROM relay.events WHERE object_id = 'cus_RelayDemo05'"
    )
    dead = await pg.fetchval(
        "SELECT max(inbox_id) FROM relay.dead_letters WHERE error_code = 'invalid_topic'"
    )
    return {
        "event": str(event),
        "dead": str(dead),
        "snapshot": begun["id"],
        "until": until.replace("+00:00", "Z"),
    }


async def _act(api: httpx.AsyncClient, path: str, reason: str, **fields: object) -> dict[str, str]:
    answer = await api.post(path, json={"reason": reason, **fields})
    assert answer.is_success, answer.text
    found: dict[str, str] = answer.json()
    return found


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], Path(sys.argv[2])))
