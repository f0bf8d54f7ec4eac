"""From an empty database to a delivered event, every process with a login of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.dev import samples
from relay.store.sealing import new_key
from tests.acceptance.fleet import Serving, command, create_source, environment
from tests.acceptance.sender import Webhook, post
from tests.support.logins import as_login
from tests.support.processes import eventually

pytestmark = pytest.mark.slow

SECRET = "whsec_" + "0" * 32


async def run(login: str, url: str, *arguments: str) -> Any:
    """`relay … --json` as one of the logins; what it told."""
    settings = environment(RELAY_DATABASE_URL=as_login(url, login), RELAY_RETENTION_DAYS="7")
    status, output, errors = await command(*arguments, "--json", environment=settings)
    assert status == 0, errors
    assert {json.loads(line)["event"] for line in errors.splitlines()} <= {"janitor.sealed"}
    return json.loads(output)


async def test_each_process_has_the_rights_that_it_needs(
    empty_database_url: str, kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    url = empty_database_url
    # The DBA, once; then nobody is a superuser any more.
    pg = await asyncpg.connect(url)
    status, script, errors = await command("roles", "sql", environment=environment())
    assert status == 0, errors
    await pg.execute(script)
    migrated = await run("migrator", url, "migrate")
    assert migrated["usable"]

    settings = environment(
        RELAY_DATABASE_URL=url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_RETENTION_DAYS="7",
    )
    # Sealed secrets are not for the forwarder, and neither is the key to them.
    with_key = settings | {"RELAY_ENCRYPTION_KEYS": new_key()}
    source = await create_source(
        "shop", "--signing-secret", SECRET, "--topic-prefix", topic_prefix, environment=with_key
    )
    webhook = Webhook(f"/webhooks/{source['id']}?api_key={source['api_key']}", SECRET)
    receiver = Serving("receiver", with_key, tmp_path / "receiver")
    forwarder = Serving("forwarder", settings, tmp_path / "forwarder")
    services = (receiver, forwarder)
    try:
        for each in services:
            await each.ready()
        sample = samples.sample("customer.updated", seed=1)
        assert (await post(receiver.port, webhook, sample.body)).status == 200
        wrong = Webhook(webhook.path, "whsec_of_somebody_else")
        assert (await post(receiver.port, wrong, sample.body)).status == 400

        async def is_delivered() -> bool:
            found = await run("auditor", url, "events", "list", "--state", "delivered")
            return bool(found)

        await eventually(is_delivered)
        for each in services:
            assert await each.stop() == 0
    finally:
        for each in services:
            await each.kill()
    # Nothing was refused to anybody, and what is not theirs to do was told once, if at all.
    for each in services:
        troubles = [line for line in each.lines() if line["level"] in ("warning", "error")]
        assert [line["event"] for line in troubles] == ["receiver.signature_refused"] * (
            each is receiver
        )
        assert len(each.lines("janitor.leaves_the_rest")) <= 1
    # One of them keeps house at a time, so the other may not have come to it.
    assert any(each.lines("janitor.leaves_the_rest") for each in services)
    assert await pg.fetchval("SELECT count(*) FROM relay.dead_letter") == 1
    done = await run("migrator", url, "housekeeping")
    assert (done["complete"], done["partitions_overdue"]) == (True, 0)
    await pg.close()
