"""A process that was forgotten while the schema went on without it."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from relay.core.routing import key_of, lane_of
from relay.dev import samples
from relay.store.schema import BUILD_REVISION
from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, create_source, environment, get
from tests.acceptance.sender import Webhook, post
from tests.store.rows import new_event, put
from tests.support.processes import eventually

SECRET = "whsec_" + "l" * 32
NEXT = BUILD_REVISION + 1


async def test_it_neither_receives_nor_forwards_until_the_schema_is_back(
    database_url: str, direct_url: str, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    settings = environment(
        RELAY_DATABASE_URL=database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
    )
    flags = ("--signing-secret", SECRET, "--topic-prefix", topic_prefix)
    source = await create_source("acme", *flags, environment=settings)
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    pg = await asyncpg.connect(direct_url)
    process = Serving("receiver,forwarder", settings, tmp_path / "log")

    async def is_answered(status: int) -> bool:
        body = samples.sample("customer.updated", seed=1, event_id="evt_1", object_id="cus_1").body
        return (await post(process.port, webhook, body)).status == status

    async def is_idle() -> bool:
        return not await pg.fetchval("SELECT EXISTS (SELECT FROM relay.queue)")

    try:
        await process.ready()
        assert await is_answered(200)
        await eventually(is_idle)
        await pg.execute(
            f"UPDATE relay.compatibility SET revision = {NEXT}, min_compatible = {NEXT}"
        )
        await eventually(lambda: is_answered(503))
        await eventually(lambda: len(_complaints(process)) >= 4)
        answer = await get(process.port, "/readyz")
        assert answer.status == 503
        reason = f"the schema needs a build of revision {NEXT} or later"
        assert reason in answer.json["checks"]["schema"]["reason"]
        assert all(reason in line["reason"] for line in _complaints(process))
        # Another build stores; every service of this one has looked and given up before.
        source_id = await pg.fetchval("SELECT id FROM relay.source")
        lane, key_hash = lane_of(key_of("cus_2"))
        event = new_event(
            source_id, "evt_2", object_id="cus_2", lane=lane, key_hash=key_hash, body=_body()
        )
        assert await put(pg, event) == [True]
        assert await is_answered(503)
        assert not await is_idle()
        assert process.exit_status is None
        await pg.execute(
            f"UPDATE relay.compatibility SET min_compatible = 1, revision = {BUILD_REVISION}"
        )
        await eventually(lambda: is_answered(200))
        await eventually(is_idle)
        assert await pg.fetchval("SELECT count(*) FROM relay.deliveries") == 2
        assert await process.stop() == 0
    finally:
        await process.kill()
        await pg.close()


def _complaints(process: Serving) -> list[dict[str, str]]:
    return process.lines("app.incompatible_schema")


def _body() -> bytes:
    return samples.sample("customer.updated", seed=2, event_id="evt_2", object_id="cus_2").body
