"""Sources: their settings, their keys as hashes, their secrets sealed, and their end."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.core.routing import LANES
from relay.core.source import SourceConfig
from relay.store import admission, events, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from relay.store.sources import Source, Unfinished
from tests.store.rows import OPERATOR, bury, deliver, new_event, put, states, store

SEAL = Seal([new_key()])
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STRIPE_KEY = "rk_live_51Hx"


async def create(
    database: Database,
    name: str = "main",
    *secrets: str,
    stripe_key: str | None = None,
    **more: Any,
) -> tuple[Source, str]:
    config = SourceConfig(
        source_id=0, public_id="", name=name, **({"insecure": not secrets} | more)
    )
    async with database.begin() as connection:
        return await sources.create(
            connection,
            config,
            sealed_secrets=[SEAL.seal(secret.encode()) for secret in secrets],
            sealed_stripe_key=None if stripe_key is None else SEAL.seal(stripe_key.encode()),
        )


async def find(database: Database, name: str) -> Source:
    async with database.begin() as connection:
        return await sources.find(connection, name)


async def admitted(database: Database, seal: Seal = SEAL) -> dict[str, admission.Admitted]:
    async with database.begin() as connection:
        return (await admission.load(connection, seal)).sources


def sha256(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


# Making and changing


async def test_a_source_is_found_as_it_was_made(database: Database) -> None:
    settings = {
        "resources": ("charge", "invoice"),
        "unselected": "FAIL",
        "default_topic": "rest",
        "metadata": False,
        "fan_out": ("invoice.lines",),
        "dlq": False,
        "dlq_topic": "",
        "topic_prefix": "shop.",
        "route_by": "object",
        "tombstones": True,
        "tolerance": 60,
        "mode": "live",
    }
    made, key = await create(database, "main", SECRET, "whsec_2", stripe_key=STRIPE_KEY, **settings)
    assert made.config.public_id.startswith("src_")
    assert {name: getattr(made.config, name) for name in settings} == settings
    assert await find(database, "main") == made
    assert await find(database, made.config.public_id) == made
    assert sources.open_secrets(made.sealed_secrets, SEAL) == (SECRET, "whsec_2")
    assert made.sealed_stripe_key is not None
    assert SEAL.open(made.sealed_stripe_key).decode() == STRIPE_KEY
    assert len(key) > 40


async def test_a_source_has_all_its_lanes(database: Database, pg: asyncpg.Connection) -> None:
    made, _ = await create(database)
    rows = await pg.fetch(
        "SELECT lane FROM relay.lane WHERE source_id = $1 ORDER BY lane", made.config.source_id
    )
    assert [row["lane"] for row in rows] == list(range(LANES))


async def test_nothing_secret_is_stored_as_it_is(
    database: Database, pg: asyncpg.Connection
) -> None:
    """In the raw rows of all tables, in any form that is looked for."""
    made, key = await create(database, "main", SECRET, stripe_key=STRIPE_KEY)
    async with database.begin() as connection:
        rotated = await sources.rotate_key(connection, made.config.source_id, timedelta(hours=1))
    tables = await pg.fetch(
        "SELECT oid::regclass AS name FROM pg_class"
        " WHERE relnamespace = 'relay'::regnamespace AND relkind = 'r'"
    )
    for (table,) in tables:
        for row in await pg.fetch(f"SELECT t::text AS text FROM {table} t"):
            for secret in (SECRET, STRIPE_KEY, key, rotated):
                assert secret not in row["text"]
                assert secret.encode().hex() not in row["text"]
    hashes = await pg.fetch("SELECT sha256 FROM relay.api_key ORDER BY id")
    assert [row["sha256"] for row in hashes] == [sha256(key), sha256(rotated)]


async def test_keys_and_ids_do_not_repeat(database: Database) -> None:
    made = [await create(database, f"source {number}") for number in range(5)]
    assert len({key for _, key in made}) == 5
    assert len({source.config.public_id for source, _ in made}) == 5


async def test_a_name_that_is_taken_is_refused(database: Database) -> None:
    await create(database, "main")
    with pytest.raises(ConfigError, match="'main' exists already"):
        await create(database, "main")
    second, _ = await create(database, "second")
    async with database.begin() as connection:
        with pytest.raises(ConfigError, match="'main' exists already"):
            await sources.update_settings(
                connection,
                second.config.source_id,
                SourceConfig(source_id=0, public_id="", name="main", insecure=True),
                sealed_secrets=[],
                sealed_stripe_key=None,
            )
        await connection.rollback()


async def test_what_is_not_verified_has_to_say_so(database: Database) -> None:
    """And is not told that its name was taken."""
    with pytest.raises(ConfigError, match="--insecure"):
        await create(database, "main", insecure=False)


async def test_an_unknown_source_is_told_with_the_names_there_are(database: Database) -> None:
    with pytest.raises(ConfigError, match="there are none yet"):
        await find(database, "main")
    await create(database, "shop")
    await create(database, "other")
    for name in ("mian", "SHOP", "shop\0", "\ud800", "src_0", ""):
        with pytest.raises(ConfigError, match="known sources: shop, other"):
            await find(database, name)


async def test_settings_change_and_the_rest_stays(database: Database) -> None:
    made, key = await create(database, "main", SECRET)
    changed = SourceConfig(
        source_id=0, public_id="", name="renamed", tolerance=10, resources=("*",)
    )
    async with database.begin() as connection:
        await sources.update_settings(
            connection,
            made.config.source_id,
            changed,
            sealed_secrets=[SEAL.seal(b"whsec_new")],
            sealed_stripe_key=None,
        )
    found = await find(database, "renamed")
    assert (found.config.tolerance, found.config.resources) == (10, ("*",))
    assert found.config.public_id == made.config.public_id
    assert found.created_at == made.created_at
    assert found.updated_at > made.updated_at
    admitted_now = (await admitted(database))[made.config.public_id]
    assert admitted_now.signing_secrets == ("whsec_new",)
    assert admitted_now.key_sha256s == (sha256(key),)


async def test_two_who_change_a_source_wait_for_each_other(
    database: Database, pg: asyncpg.Connection
) -> None:
    await create(database, "main")
    async with database.begin() as connection:
        await sources.find(connection, "main", lock=True)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await pg.fetch("SELECT FROM relay.source WHERE name = 'main' FOR UPDATE NOWAIT")


# Keys


async def test_rotation_gives_the_old_key_its_time(
    database: Database, pg: asyncpg.Connection
) -> None:
    made, first = await create(database)
    source_id, public_id = made.config.source_id, made.config.public_id
    async with database.begin() as connection:
        second = await sources.rotate_key(connection, source_id, timedelta(hours=24))
    keys = (await admitted(database))[public_id].key_sha256s
    assert set(keys) == {sha256(first), sha256(second)}
    ends = "SELECT expires_at - now() AS left FROM relay.api_key WHERE sha256 = $1"
    assert timedelta(hours=23) < await pg.fetchval(ends, sha256(first)) <= timedelta(hours=24)
    assert await pg.fetchval(ends, sha256(second)) is None
    # A later rotation does not give the first one more time.
    async with database.begin() as connection:
        third = await sources.rotate_key(connection, source_id, timedelta(days=30))
    assert await pg.fetchval(ends, sha256(first)) <= timedelta(hours=24)
    assert await pg.fetchval(ends, sha256(second)) > timedelta(days=29)
    keys = (await admitted(database))[public_id].key_sha256s
    assert set(keys) == {sha256(first), sha256(second), sha256(third)}


async def test_a_key_whose_time_is_over_is_not_let_in(
    database: Database, pg: asyncpg.Connection
) -> None:
    made, first = await create(database)
    async with database.begin() as connection:
        second = await sources.rotate_key(connection, made.config.source_id, timedelta(0))
    assert (await admitted(database))[made.config.public_id].key_sha256s == (sha256(second),)
    await pg.execute(
        "UPDATE relay.api_key SET expires_at = now() + interval '1 hour' WHERE sha256 = $1",
        sha256(first),
    )
    assert len((await admitted(database))[made.config.public_id].key_sha256s) == 2


async def test_rotation_leaves_other_sources_alone(database: Database) -> None:
    made, _ = await create(database, "main")
    other, theirs = await create(database, "other")
    async with database.begin() as connection:
        await sources.rotate_key(connection, made.config.source_id, timedelta(0))
    assert (await admitted(database))[other.config.public_id].key_sha256s == (sha256(theirs),)


# Secrets


async def test_one_source_that_cannot_be_opened_does_not_shut_the_others_out(
    database: Database,
) -> None:
    good, _ = await create(database, "good", SECRET)
    stranger = Seal([new_key()])
    config = SourceConfig(source_id=0, public_id="", name="bad")
    async with database.begin() as connection:
        bad, _ = await sources.create(
            connection, config, sealed_secrets=[stranger.seal(b"x")], sealed_stripe_key=None
        )
    found = await admitted(database)
    assert found[good.config.public_id].signing_secrets == (SECRET,)
    assert found[bad.config.public_id].signing_secrets is None


async def test_secrets_are_sealed_anew_with_the_first_key(database: Database) -> None:
    old, new = new_key(), new_key()
    config = SourceConfig(source_id=0, public_id="", name="main")
    sealed = [Seal([old]).seal(each) for each in (b"a", b"b")]
    async with database.begin() as connection:
        await sources.create(
            connection, config, sealed_secrets=sealed, sealed_stripe_key=Seal([old]).seal(b"c")
        )
    async with database.begin() as connection:
        assert await sources.renew_secrets(connection, Seal([new, old])) == 3
    found = await find(database, "main")
    assert sources.open_secrets(found.sealed_secrets, Seal([new])) == ("a", "b")
    assert found.sealed_stripe_key is not None
    assert Seal([new]).open(found.sealed_stripe_key) == b"c"
    async with database.begin() as connection:
        with pytest.raises(ConfigError):
            await sources.renew_secrets(connection, Seal([new_key()]))
        await connection.rollback()
    found = await find(database, "main")
    assert sources.open_secrets(found.sealed_secrets, Seal([new])) == ("a", "b")


# Pausing


async def test_pausing_is_remembered_from_when_it_began(database: Database) -> None:
    made, _ = await create(database)
    moments = []
    for _ in range(2):
        async with database.begin() as connection:
            await sources.pause(connection, made.config.source_id)
        moments.append((await find(database, "main")).paused_at)
    assert moments[0] == moments[1] is not None
    async with database.begin() as connection:
        await sources.resume(connection, made.config.source_id)
    assert (await find(database, "main")).paused_at is None


async def test_a_paused_source_receives(database: Database, pg: asyncpg.Connection) -> None:
    made, key = await create(database)
    async with database.begin() as connection:
        await sources.pause(connection, made.config.source_id)
    assert (await admitted(database))[made.config.public_id].key_sha256s == (sha256(key),)
    assert await put(pg, new_event(made.config.source_id)) == [True]


# The end


async def test_what_is_unfinished_is_counted(database: Database, pg: asyncpg.Connection) -> None:
    made, _ = await create(database)
    source_id = made.config.source_id
    async with database.begin() as connection:
        assert await sources.unfinished(connection, source_id) == Unfinished(0, 0)
    stored = await store(pg, *(new_event(source_id) for _ in range(5)))
    await deliver(pg, stored[0])
    await bury(pg, stored[1], copy=True)
    await pg.execute(
        "INSERT INTO relay.dead_letter (source_id, error_code, error, attempts, refused_body)"
        " VALUES ($1, 'signature_wrong', '', 0, '')",
        source_id,
    )
    async with database.begin() as connection:
        assert await sources.unfinished(connection, source_id) == Unfinished(3, 1)


async def test_a_deleted_source_is_gone_and_its_evidence_stays(
    database: Database, pg: asyncpg.Connection
) -> None:
    made, _ = await create(database, "main", SECRET, stripe_key=STRIPE_KEY)
    source_id = made.config.source_id
    delivered, waiting, dead = await store(pg, *(new_event(source_id) for _ in range(3)))
    await deliver(pg, delivered)
    await bury(pg, dead, copy=True)
    async with database.begin() as connection:
        assert await events.discard_source(connection, source_id, OPERATOR) == (1, 1)
        await sources.delete(connection, source_id)
    assert await admitted(database) == {}
    with pytest.raises(ConfigError, match="no source named 'main'"):
        await find(database, "main")
    with pytest.raises(ConfigError):
        await find(database, made.config.public_id)
    row = await pg.fetchrow("SELECT * FROM relay.source WHERE id = $1", source_id)
    assert row is not None
    assert (row["signing_secrets"], row["stripe_api_key"]) == ([], None)
    assert await pg.fetchval("SELECT count(*) FROM relay.api_key") == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.queue") == 0
    assert await pg.fetchval("SELECT count(*) FROM relay.lag") == 0
    assert await states(pg, delivered, waiting, dead) == ["delivered", "skipped", "skipped"]
    found = await pg.fetch("SELECT DISTINCT source FROM relay.events")
    assert [row["source"] for row in found] == ["main"]


async def test_a_name_is_free_again(database: Database, pg: asyncpg.Connection) -> None:
    first, _ = await create(database, "main")
    async with database.begin() as connection:
        await sources.delete(connection, first.config.source_id)
    second, _ = await create(database, "main")
    assert second.config.source_id != first.config.source_id
    assert second.config.public_id != first.config.public_id
    assert await find(database, "main") == second
    async with database.begin() as connection:
        assert await sources.names(connection) == {"main"}
        await sources.delete(connection, second.config.source_id)
    await create(database, "main")
    # The same event may come to each of them.
    for source_id in (first.config.source_id, second.config.source_id):
        assert await put(pg, new_event(source_id, "evt_1")) == [True]
