"""A dashboard with some of everything that its pages can show, by hand and without a Kafka."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
from confluent_kafka import Producer

from relay.dev.stripe_api import FakeStripe
from relay.store import deadletters, queue
from relay.store.engine import Database
from relay.store.events import Filter, Operator
from tests.admin.with_stripe import add_source, read_pages, settings_beside
from tests.admin.world import OPERATOR, Served, served
from tests.store.rows import bury, deliver, fail, leave_out, new_event, row_of, store

WHY = {"reason": "the consumer is mended"}
_STATES = ("pending", "retrying", "dead", "skipped", "delivered")


class Furnished:
    """``at`` is where things are, by what they are: event ids by their state, say."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.at: dict[str, str] = {}


@asynccontextmanager
async def furnished(database_url: str, kafka: str) -> AsyncIterator[Furnished]:
    """Served with both tokens; nothing runs that would change what there is.

    ``kafka`` are bootstrap servers.
    """
    async with AsyncExitStack() as stack:
        stripe = await stack.enter_async_context(FakeStripe({"customer": 2000, "charge": 30}))
        settings = settings_beside(stripe) | {"kafka_bootstrap_servers": kafka}
        made = Furnished(await stack.enter_async_context(served(database_url, **settings)))
        database = Database(database_url, pool_size=4)
        stack.push_async_callback(database.close)
        async with database.driver() as pg:
            shop = await add_source(database, "shop", "customer", "charge")
            await _events(made, pg, shop)
            await _record(made, pg, kafka)
            await _stopped_sources(database, pg)
            await _replays(made, database, pg, shop)
        await _snapshots(made, database, stripe)
        for _ in range(2):
            await made.served.dashboard.watch.run_once()
        yield made


def body_of(event_id: str, object_id: str) -> bytes:
    """An update of a customer, with what was before."""
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "customer.updated",
            "data": {
                "object": {"id": object_id, "object": "customer", "email": "ana@example.com"},
                "previous_attributes": {"email": "a@example.com", "metadata": {"tier": "silver"}},
            },
        },
        indent=2,
    ).encode()


async def _events(made: Furnished, pg: asyncpg.Connection, source_id: int) -> None:
    ids = {}
    for state in _STATES:
        event_id, object_id = f"evt_1P{state}", f"cus_P{state}"
        event = new_event(
            source_id, event_id, object_id=object_id, body=body_of(event_id, object_id)
        )
        (ids[state],) = await store(pg, event)
    await fail(pg, ids["retrying"])
    await bury(pg, ids["dead"])
    await leave_out(pg, ids["skipped"])
    await deliver(pg, ids["delivered"], records=2)
    made.at |= {state: str(each) for state, each in ids.items()}
    # More than a page of the list has.
    many = [new_event(source_id, f"evt_1Pm{n:03}", object_id="cus_Pmany") for n in range(51)]
    for each in await store(pg, *many):
        await deliver(pg, each)
    await pg.execute(
        "INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, refused_body)"
        " VALUES ($1, 'signature_wrong', 'no signature fits', 0, 'x')",
        source_id,
    )


async def _record(made: Furnished, pg: asyncpg.Connection, kafka: str) -> None:
    """One record of the delivered event stands in Kafka, and the topic of the other is gone."""
    topic = f"pages-{secrets.token_hex(5)}"
    producer = Producer({"bootstrap.servers": kafka})
    headers = {"_event_id": "evt_1Pdelivered", "_source": "shop"}
    producer.produce(topic, b'{"id": "cus_1"}', b'{"id":"cus_1"}', partition=0, headers=headers)
    assert await asyncio.to_thread(producer.flush, 30) == 0
    await pg.execute("ALTER TABLE relay.receipt DISABLE TRIGGER USER")
    await pg.execute(
        """
        UPDATE relay.receipt SET topic = $2 || CASE record WHEN 0 THEN '' ELSE '-gone' END,
            "offset" = 0
        WHERE inbox_id = $1
        """,
        int(made.at["delivered"]),
        topic,
    )


async def _stopped_sources(database: Database, pg: asyncpg.Connection) -> None:
    halted = await add_source(database, "halted")
    (inbox_id,) = await store(pg, new_event(halted, "evt_1Phalts", object_id="cus_Phalts"))
    await queue.halt(pg, await row_of(pg, inbox_id), "no_route", "nothing takes its type")
    paused = await add_source(database, "paused")
    await store(pg, new_event(paused, "evt_1Pwaits", object_id="cus_Pwaits"))
    await pg.execute("UPDATE relay.source SET paused_at = now() WHERE id = $1", paused)


async def _replays(
    made: Furnished, database: Database, pg: asyncpg.Connection, source_id: int
) -> None:
    """One goes on, one was begun at the command line, one is finished and one was cancelled."""
    for code in ("command_line", "finished", "cancelled", "going_on"):
        events = [new_event(source_id, f"evt_1P{code}{n}") for n in range(4)]
        await bury(pg, *await store(pg, *events), code=code)
        async with database.begin() as connection:
            operator = Operator("ana (dashboard)", WHY["reason"])
            run = await deadletters.prepare(connection, Filter(error=code))
            run = await deadletters.begin(
                connection, run, operator, background=code != "command_line"
            )
            limit = 10 if code == "finished" else 2
            await deadletters.queue_some(connection, run, operator, limit=limit)
            if code == "finished":
                await deadletters.queue_some(connection, run, operator, limit=limit)
            if code == "cancelled":
                await deadletters.cancel(connection, run.replay_id, operator)
        made.at[f"replay_{code}"] = run.replay_id


async def _snapshots(made: Furnished, database: Database, stripe: FakeStripe) -> None:
    client = made.served.client(OPERATOR)
    for state in ("finished", "failed", "paused", "running"):
        answer = await client.post("/api/snapshots", json=WHY | {"source": "shop"})
        assert answer.status_code == 201, answer.text
        made.at[f"snapshot_{state}"] = name = answer.json()["id"]
        await read_pages(database, stripe, 3)
        if state == "paused":
            await client.post(f"/api/snapshots/{name}/pause", json=WHY)
        elif state != "running":
            async with database.driver() as pg:
                await pg.execute(
                    "UPDATE relay.snapshot SET state = $2, last_error = $3,"
                    " finished_at = CASE WHEN $2 = 'finished' THEN now() END WHERE id = $1",
                    name,
                    state,
                    "Stripe refuses the key" if state == "failed" else None,
                )
