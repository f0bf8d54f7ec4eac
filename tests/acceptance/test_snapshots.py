"""A snapshot of 100,000 objects, three processes, 30 SIGKILLs: nothing is missing at the end.

Our fake of the Stripe API refuses a fifth of all requests, deletes and creates objects while the
scan goes on, and counts what it is asked. Live events of some of the objects come in meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from pathlib import Path

import asyncpg
import pytest

from relay.dev import samples
from relay.dev.stripe_api import FakeStripe, Fault, Limits
from relay.dev.stripe_api.server import LIVE_KEY
from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, command, create_source, environment
from tests.acceptance.sender import Webhook, post
from tests.support.processes import eventually

pytestmark = pytest.mark.slow

COUNTS = {
    "customer": 30_000,
    "charge": 25_000,
    "invoice": 20_000,
    "payment_intent": 15_000,
    "payment_method": 4_000,
    "price": 6_000,
}
PROCESSES = 3
KILLS = 30
CHANGES = 500
SECRET = "whsec_" + "s" * 32

_READ = "SELECT coalesce(sum(pages), 0)::bigint FROM relay.snapshot_range"
_STATE = "SELECT state FROM relay.snapshots WHERE id = $1"
_STORED = """
WITH live AS MATERIALIZED (
    SELECT object_id, max(event_created) AS changed FROM relay.events
    WHERE origin = 'webhook' GROUP BY object_id
)
SELECT e.object_id, e.state, e.skip_reason, e.event_created, live.changed AS live
FROM relay.events e LEFT JOIN live USING (object_id) WHERE e.origin = 'snapshot'
"""


async def test_nothing_is_missing_after_thirty_kills(
    database_url: str, direct_url: str, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("RELAY_TEST_SEED", time.time_ns() % 10**9))
    rng = random.Random(seed)
    print(f"RELAY_TEST_SEED={seed}")
    faults = [
        Fault("endpoint-rate", share=0.1),
        Fault("global-rate", share=0.1),
        Fault("delete_cursor", share=0.02),
        Fault("delete", share=0.05),
        Fault("create", share=0.05),
    ]
    async with FakeStripe(COUNTS, seed=seed, limits=Limits(100, 25), faults=faults) as stripe:
        existed = {name: set(stripe.resource(name, live=True).ids()) for name in COUNTS}
        settings = environment(
            RELAY_DATABASE_URL=database_url,
            RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
            RELAY_ENCRYPTION_KEYS=new_key(),
            RELAY_STRIPE_API_BASE=stripe.url,
            RELAY_STRIPE_RATE_SHARE="0.9",
            RELAY_LOG_LEVEL="info",
        )
        made = await create_source(
            "shop",
            *("--signing-secret", SECRET, "--stripe-api-key", LIVE_KEY),
            *("--schema", ",".join(COUNTS), "--topic-prefix", topic_prefix),
            environment=settings,
        )
        fleet = Fleet(settings, tmp_path)
        pg = await asyncpg.connect(direct_url)
        try:
            receiver = await fleet.start("receiver").ready()
            forwarder = await fleet.start("forwarder").started()
            readers = [await fleet.start("snapshotter").started() for _ in range(PROCESSES)]
            status, output, errors = await command(
                "snapshot", "start", "shop", "--json", environment=settings
            )
            assert status == 0, errors
            snapshot_id = json.loads(output)["id"]
            webhook = Webhook(f"/webhooks/{made['id']}?api_key={made['api_key']}", SECRET)
            changed = rng.sample(sorted(existed["customer"]), CHANGES)
            changing = asyncio.create_task(change(receiver.port, webhook, changed))
            for _ in range(KILLS):
                await read_on(pg, snapshot_id, rng.randint(1, 25))
                victim = readers.pop(rng.randrange(len(readers)))
                await victim.kill()
                readers.append(fleet.start("snapshotter"))
            await eventually(lambda: ended(pg, snapshot_id), deadline=400)
            await changing
            await eventually(lambda: drained(pg), deadline=200)
            assert forwarder.exit_status is None
            stored = {row["object_id"]: row for row in await pg.fetch(_STORED)}
            pages = await pg.fetchval(_READ)
            counted = await pg.fetchval("SELECT sum(objects)::bigint FROM relay.snapshot_progress")
        finally:
            await pg.close()
            await fleet.stop()

        for name, before in existed.items():
            throughout = before & set(stripe.resource(name, live=True).ids())
            missing = throughout - stored.keys()
            assert not missing, f"{len(missing)} of {len(throughout)} {name} are missing"
        assert counted == len(stored)
        assert any(row["state"] == "skipped" for row in stored.values())
        for object_id, row in stored.items():
            if row["state"] == "skipped":
                assert row["skip_reason"] == "superseded", object_id
                assert row["live"] >= row["event_created"], object_id
            else:
                assert row["state"] == "delivered", object_id
        # At most one page per range in flight is read again for each kill.
        good = stripe.traffic.statuses[200]
        in_flight = 4 * KILLS
        assert pages <= good <= pages + in_flight + stripe.traffic.statuses[400]
        assert stripe.traffic.statuses[429] > good / 8
        assert stripe.traffic.peak() <= 100
        for name in stripe.traffic.resources():
            assert stripe.traffic.peak(resource=name) <= 25


async def change(port: int, webhook: Webhook, customers: list[str]) -> None:
    """Live events, while the snapshot goes on."""
    for number, customer in enumerate(customers):
        event = samples.sample(
            "customer.updated",
            # Its creation: later than any page, so that it supersedes what is still to be read.
            seed=int(time.time()) + 3600 - samples.EPOCH,
            event_id=f"evt_change{number}",
            object_id=customer,
            livemode=True,
        )
        answer = await post(port, webhook, event.body)
        assert answer.status == 200, answer
        await asyncio.sleep(0.02)


async def read_on(pg: asyncpg.Connection, snapshot_id: str, pages: int) -> None:
    """Wait until so many more pages have been stored, or the snapshot has ended."""
    wanted = await pg.fetchval(_READ) + pages

    async def far_enough() -> bool:
        return await ended(pg, snapshot_id) or await pg.fetchval(_READ) >= wanted

    await eventually(far_enough, deadline=120)


async def ended(pg: asyncpg.Connection, snapshot_id: str) -> bool:
    state = await pg.fetchval(_STATE, snapshot_id)
    assert state in ("running", "finished"), state
    return bool(state == "finished")


async def drained(pg: asyncpg.Connection) -> bool:
    return not await pg.fetchval("SELECT EXISTS (SELECT FROM relay.queue)")


class Fleet:
    """The processes of this test, each with a log of its own."""

    def __init__(self, settings: dict[str, str], directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self._all: list[Serving] = []

    def start(self, roles: str) -> Serving:
        log = self._directory / f"{roles}-{len(self._all)}.log"
        serving = Serving(roles, self._settings, log)
        self._all.append(serving)
        return serving

    async def stop(self) -> None:
        await asyncio.gather(*[each.stop() for each in self._all if each.exit_status is None])
