"""The roles where nobody is a superuser, on every PostgreSQL that is installed.

What a role with CREATEROLE may do has changed with PostgreSQL 16.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from relay.core.errors import ConfigError
from relay.dev.postgres import EmbeddedPostgres, Installation, installations
from relay.janitor import Janitor
from relay.store import roles
from relay.store.engine import Database
from relay.store.schema import BUILD_REVISION, migrate
from tests.store.rows import new_event, put

INSTALLED = [
    *(each for each in installations() if each.major >= 15),
    # Debian's packages, where they are.
    *(
        Installation(int(directory.name), directory / "bin")
        for directory in sorted(Path("/usr/lib/postgresql").glob("1[5-9]"))
        if (directory / "bin" / "initdb").is_file()
    ),
]
PASSWORD = "for-tests-only"

OWNERS = """
SELECT DISTINCT r.rolname FROM pg_roles r WHERE r.oid IN (
    SELECT nspowner FROM pg_namespace WHERE nspname = 'relay'
    UNION SELECT relowner FROM pg_class WHERE relnamespace = 'relay'::regnamespace
    UNION SELECT proowner FROM pg_proc WHERE pronamespace = 'relay'::regnamespace)
"""
EVERYTHING = """
SELECT relname AS name, relowner::regrole::text AS owner, relacl::text AS rights
FROM pg_class WHERE relnamespace = 'relay'::regnamespace
UNION ALL SELECT proname, proowner::regrole::text, proacl::text
FROM pg_proc WHERE pronamespace = 'relay'::regnamespace ORDER BY 1, 2
"""


class Server:
    """A server of somebody else's: `master` may make roles and databases, and is no superuser."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def url(self, login: str, database: str) -> str:
        place = urlsplit(self.dsn).netloc.rpartition("@")[2]
        return f"postgresql://{login}:{PASSWORD}@{place}/{database}"

    async def execute(self, login: str, database: str, *statements: str) -> None:
        pg = await asyncpg.connect(self.url(login, database))
        try:
            for statement in statements:
                await pg.execute(statement)
        finally:
            await pg.close()

    async def rows(self, login: str, database: str, statement: str) -> list[tuple[object, ...]]:
        pg = await asyncpg.connect(self.url(login, database))
        try:
            return [tuple(row) for row in await pg.fetch(statement)]
        finally:
            await pg.close()

    async def make_login(self, database: str, *groups: str) -> str:
        """A login in these groups, made by `master`; its name."""
        name = "login_" + secrets.token_hex(4)
        made = f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"
        await self.execute(
            "master", database, made + (f" IN ROLE {', '.join(groups)}" * bool(groups))
        )
        return name

    async def make_database(self) -> str:
        name = "shop_" + secrets.token_hex(4)
        await self.execute("master", "postgres", f"CREATE DATABASE {name}")
        return name


@pytest_asyncio.fixture(
    scope="module", params=INSTALLED, ids=[f"PostgreSQL {each.major}" for each in INSTALLED]
)
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    directory = tmp_path_factory.mktemp("managed")
    async with EmbeddedPostgres(directory, installation=request.param) as running:
        pg = await asyncpg.connect(running.dsn)
        await pg.execute(f"CREATE ROLE master LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
        await pg.close()
        yield Server(running.dsn)


async def stores(url: str) -> bool:
    """Whether this login can do what the receiver does; raises when it may not."""
    database = Database(url, pool_size=1)
    try:
        async with database.driver() as pg:
            return await put(pg, new_event(1)) == [True]
    finally:
        await database.close()


async def test_a_new_database(server: Server) -> None:
    """The roles first, then everything as the migrator; and again, which changes nothing."""
    shop = await server.make_database()
    groups = await roles.apply(server.url("master", shop))
    assert [group.name for group in groups] == list(roles.ROLES)
    migrator = await server.make_login(shop, "relay_migrator")
    receiver = await server.make_login(shop, "relay_receiver")
    await migrate(server.url(migrator, shop))
    assert await server.rows(migrator, shop, OWNERS) == [("relay_migrator",)]
    assert await stores(server.url(receiver, shop))

    before = await server.rows(migrator, shop, EVERYTHING)
    await roles.apply(server.url("master", shop))
    await migrate(server.url(migrator, shop))
    assert await server.rows(migrator, shop, EVERYTHING) == before
    # `master` has no part in it, and made the group nevertheless.
    member = "SELECT pg_has_role('master', 'relay_migrator', 'USAGE')"
    assert await server.rows("master", shop, member) == [(False,)]


async def test_another_member_goes_on_where_one_left_off(server: Server) -> None:
    """Partitions and migrations of one can be dropped and changed by the other."""
    shop = await server.make_database()
    await roles.apply(server.url("master", shop))
    one = await server.make_login(shop, "relay_migrator")
    other = await server.make_login(shop, "relay_migrator")
    await migrate(server.url(one, shop))
    drop_all = """DO $$ DECLARE name regclass; BEGIN
        FOR name IN SELECT inhrelid::regclass FROM pg_inherits
            WHERE inhparent IN ('relay.inbox'::regclass, 'relay.receipt'::regclass)
        LOOP EXECUTE format('DROP TABLE %s', name); END LOOP; END $$"""
    await server.execute(other, shop, drop_all)
    database = Database(server.url(other, shop))
    try:
        assert await Janitor(database, retention_days=7).run_once() == 3
    finally:
        await database.close()
    assert await server.rows(one, shop, OWNERS) == [("relay_migrator",)]
    await server.execute(one, shop, drop_all)
    await migrate(server.url(other, shop), f"{BUILD_REVISION - 1:04}")
    await migrate(server.url(one, shop))
    assert await server.rows(one, shop, OWNERS) == [("relay_migrator",)]


async def test_an_inbox_of_before_changes_hands_and_what_runs_goes_on(server: Server) -> None:
    shop = await server.make_database()
    await server.execute("master", shop, "CREATE SCHEMA relay")
    await migrate(server.url("master", shop))
    await roles.apply(server.url("master", shop))
    assert await server.rows("master", shop, OWNERS) == [("relay_migrator",)]
    receiver = await server.make_login(shop, "relay_receiver")
    assert await stores(server.url(receiver, shop))
    assert await stores(server.url("master", shop))
    await roles.apply(server.url("master", shop))
    await server.execute("master", shop, "REVOKE relay_migrator FROM master")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stores(server.url("master", shop))


async def test_an_inbox_of_somebody_else_is_left_alone(server: Server) -> None:
    shop = await server.make_database()
    owner = await server.make_login(shop)
    await server.execute("master", shop, f"GRANT CREATE ON DATABASE {shop} TO {owner}")
    await server.execute(owner, shop, "CREATE SCHEMA relay")
    with pytest.raises(ConfigError, match=f"belongs to {owner}, and master has not its rights"):
        await roles.apply(server.url("master", shop))
    assert await server.rows(owner, shop, OWNERS) == [(owner,)]


async def test_who_may_not_make_roles_is_told_so(server: Server) -> None:
    shop = await server.make_database()
    await roles.apply(server.url("master", shop))
    login = await server.make_login(shop)
    with pytest.raises(ConfigError, match=f"the role {login} may not give itself"):
        await roles.apply(server.url(login, shop))


async def test_a_superuser_who_has_the_name_of_a_group_is_no_group(server: Server) -> None:
    pg = await asyncpg.connect(server.dsn)
    try:
        await pg.execute("ALTER ROLE relay_auditor SUPERUSER")
        with pytest.raises(ConfigError, match="relay_auditor is a superuser"):
            await roles.apply(server.dsn)
    finally:
        await pg.execute("ALTER ROLE relay_auditor NOSUPERUSER")
        await pg.close()


async def test_a_missing_group_is_named_by_the_next_migration(server: Server) -> None:
    shop = await server.make_database()
    await roles.apply(server.url("master", shop))
    migrator = await server.make_login(shop, "relay_migrator")
    await migrate(server.url(migrator, shop))
    # As after an update to a release that knows one group more, before its migration.
    await migrate(server.url(migrator, shop), f"{BUILD_REVISION - 1:04}")
    await server.execute("master", shop, "ALTER ROLE relay_auditor RENAME TO elsewhere")
    with pytest.raises(ConfigError, match="the role relay_auditor is missing: `relay roles apply`"):
        await migrate(server.url(migrator, shop))
    await roles.apply(server.url("master", shop))
    await migrate(server.url(migrator, shop))
    auditor = await server.make_login(shop, "relay_auditor")
    assert await server.rows(auditor, shop, "SELECT * FROM relay.lag") == []
