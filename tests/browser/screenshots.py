"""The pictures in docs/images: the dashboard of a relay that has work and trouble.

    python -m tests.browser.screenshots chromium

Everything is real but Stripe: PostgreSQL, a broker, and all roles of `relay serve` in this process.
It takes three minutes, because the chart wants something to show.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx

from relay import logs
from relay.app import App, running
from relay.core.event import peek
from relay.core.source import SourceConfig
from relay.dev.broker import EmbeddedBroker
from relay.dev.postgres import EmbeddedPostgres
from relay.dev.samples import EPOCH, Sample, sample
from relay.dev.stripe_api import FakeStripe
from relay.settings import load
from relay.store import inbox, queue, schema, sources
from relay.store.engine import Database
from relay.store.queue import Parking
from relay.store.sealing import Seal, new_key
from tests.browser.tab import NARROW, WIDE, Tab, chromium, new_tab
from tests.store.rows import row_of

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
_TRAFFIC_SECONDS: Final = 150.0
_TOKEN: Final = "for-these-pictures-only"
# Events are as old as their number says, in seconds before this.
_NOW: Final = int(time.time())
_WHY: Final = {"reason": "the schema has them now"}

_TYPES: Final = (
    "customer.updated",
    "customer.created",
    "charge.succeeded",
    "payment_intent.succeeded",
    "invoice.paid",
    "invoice.finalized",
    "customer.subscription.updated",
)
# Not in the schema of the source that has no place for them.
_UNROUTED: Final = ("payout.failed", "charge.dispute.created", "payout.paid")
_SHOP: Final = SourceConfig(
    source_id=0,
    public_id="",
    name="shop",
    resources=("customer", "charge", "payment_intent", "invoice"),
    unselected="FAIL",
)
_EUROPE: Final = SourceConfig(source_id=0, public_id="", name="shop-eu", resources=("*",))


async def main(program: str) -> None:
    logs.configure("console", "error", ())
    IMAGES.mkdir(parents=True, exist_ok=True)
    async with _relay() as (relay, shop, europe):
        assert relay.admin is not None
        host, port = relay.admin.address
        url = f"http://{host}:{port}"
        event = await _happen(relay.database, shop, europe)
        snapshot = await _ask(url, "/api/snapshots", _WHY | {"source": "shop"})
        await _ask(url, "/api/replays", _WHY | {"of": "events", "type": "invoice.*"})
        await asyncio.sleep(12)
        pages = {
            "overview": "/",
            "events": "/events?type=customer.*&until=13s",
            "event": f"/events/{event}",
            "dead-letters": "/dead-letters",
            "replay": "/replays/new?of=dead-letters&error=no_route",
            "snapshot": f"/snapshots/{snapshot['id']}",
        }
        async with chromium(program) as browser:
            for colours, size, names in (
                ("light", WIDE, tuple(pages)),
                ("dark", WIDE, ("overview",)),
                ("light", NARROW, ("overview", "event")),
            ):
                async with new_tab(browser, url, viewport=size, color_scheme=colours) as tab:
                    await tab.log_in(_TOKEN)
                    for name in names:
                        end = "-narrow" if size is NARROW else "-dark" if colours == "dark" else ""
                        await _take(tab, pages[name], IMAGES / f"{name}{end}.png")


async def _take(tab: Tab, path: str, target: Path) -> None:
    await tab.go(path)
    await tab.page.evaluate("document.activeElement.blur()")
    await tab.page.screenshot(path=target)
    print(target)


async def _ask(url: str, path: str, wanted: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        headers = {"authorization": f"Bearer {_TOKEN}", "x-relay-operator": "ana"}
        answer = await client.post(path, json=wanted, headers=headers)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def _relay() -> AsyncIterator[tuple[App, int, int]]:
    """All roles, and the ids of two sources."""
    with tempfile.TemporaryDirectory(prefix="relay-pictures-") as name:
        directory = Path(name)
        os.chmod(directory, 0o711)  # root's PostgreSQL runs as another user, who has to pass
        key = new_key()
        async with (
            EmbeddedPostgres(directory / "postgres") as postgres,
            EmbeddedBroker(directory / "broker.log") as broker,
            FakeStripe({"customer": 40_000, "charge": 9_000, "invoice": 500}) as stripe,
        ):
            await schema.migrate(postgres.dsn)
            settings = load(
                {
                    "RELAY_DATABASE_URL": postgres.dsn,
                    "RELAY_KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                    "RELAY_ENCRYPTION_KEYS": key,
                    "RELAY_STRIPE_API_BASE": stripe.url,
                    "RELAY_STRIPE_RATE_SHARE": "0.02",
                    "RELAY_BIND": "127.0.0.1:0",
                    "RELAY_ADMIN_BIND": "127.0.0.1:0",
                    "RELAY_ADMIN_TOKEN": _TOKEN,
                    "RELAY_KAFKA_LOG_LEVEL": "0",
                }
            )
            seal = Seal([key])
            async with running(settings) as relay:
                ids = []
                for config in (_SHOP, _EUROPE):
                    async with relay.database.begin() as connection:
                        made, _ = await sources.create(
                            connection,
                            config,
                            sealed_secrets=[seal.seal(b"whsec_of_nobody")],
                            sealed_stripe_key=seal.seal(stripe.key.encode()),
                        )
                    ids.append(made.config.source_id)
                yield relay, ids[0], ids[1]


async def _happen(database: Database, shop: int, europe: int) -> int:
    """Some minutes of an ordinary day; the inbox id of an event to show."""
    dice = random.Random(7)  # the same day for every picture
    ends = asyncio.get_running_loop().time() + _TRAFFIC_SECONDS
    number = 0
    while asyncio.get_running_loop().time() < ends:
        number += 1
        some = [_some(dice, number * 40 + n) for n in range(dice.randint(2, 9))]
        await _put(database, shop if number % 4 else europe, some)
        if number % 40 == 0:
            await _put(database, shop, [_sample(dice.choice(_UNROUTED), number * 40 + 50)])
        await asyncio.sleep(dice.uniform(0.05, 0.4))
    shown = _sample("customer.updated", 199_001)
    await _put(database, shop, [shown])
    await _park(database, europe, [_some(dice, 199_100 + n) for n in range(4)])
    async with database.driver() as pg:
        await _until_sent(pg, shown)
        event = await pg.fetchval(
            "SELECT inbox_id FROM relay.event_key WHERE event_id = $1", shown.event_id
        )
    found: int = event
    return found


def _some(dice: random.Random, number: int) -> Sample:
    return _sample(dice.choice(_TYPES), number)


def _sample(event_type: str, number: int) -> Sample:
    return sample(event_type, seed=_NOW - EPOCH - 200_000 + number, livemode=True)


async def _put(database: Database, source_id: int, samples: Sequence[Sample]) -> None:
    events = [
        inbox.new_event(
            peek(each.body),
            each.body,
            source_id=source_id,
            origin="webhook",
            signature_header=f"t={each.event['created']},v1={'0123456789abcdef' * 4}",
        )
        for each in samples
    ]
    async with database.driver() as pg, pg.transaction():
        await inbox.put(pg, events)


async def _park(database: Database, source_id: int, samples: Sequence[Sample]) -> None:
    """What Kafka does not take for now: in one transaction with its arrival, before a claim."""
    events = [
        inbox.new_event(
            peek(each.body), each.body, source_id=source_id, origin="webhook", signature_header=None
        )
        for each in samples
    ]
    async with database.driver() as pg, pg.transaction():
        await inbox.put(pg, events)
        for event in events:
            inbox_id = await pg.fetchval(
                "SELECT inbox_id FROM relay.event_key WHERE event_id = $1", event.event_id
            )
            error = "Broker: Not enough in-sync replicas"
            row = await row_of(pg, inbox_id)
            await queue.park(pg, [Parking(row, 300.0, "kafka_not_enough_replicas", error, 3)])


async def _until_sent(pg: asyncpg.Connection, shown: Sample) -> None:
    state = "SELECT state FROM relay.events WHERE event_id = $1"
    while await pg.fetchval(state, shown.event_id) != "delivered":  # noqa: ASYNC110
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    found = shutil.which(sys.argv[1])
    if found is None:
        sys.exit(f"no browser {sys.argv[1]!r}: make screenshots CHROMIUM=/path/to/chromium")
    asyncio.run(main(found))
