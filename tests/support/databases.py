"""Databases for tests: each test gets a fresh one, cloned from a migrated template."""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Self
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from relay.store.schema import migrate
from tests.support.logins import make_logins
from tests.support.pgbouncer import PgBouncer


class Databases:
    """Makes and drops databases on one PostgreSQL server.

    `dsn` is a URL of the server whose role may create databases. The product goes through the
    pooler, where there is one; what makes, migrates and drops databases goes past it.
    """

    def __init__(self, dsn: str, admin: asyncpg.Connection, pooler: PgBouncer | None) -> None:
        self.dsn = dsn
        self._admin = admin
        self._pooler = pooler
        self._run = secrets.token_hex(4)
        self._made = 0
        self._template: str | None = None
        self._template_day: date | None = None

    @classmethod
    async def connect(cls, dsn: str, pooler: PgBouncer | None = None) -> Self:
        await make_logins(dsn)
        return cls(dsn, await asyncpg.connect(dsn), pooler)

    def url(self, database: str) -> str:
        """The URL of another database of the server, past the pooler."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{quote(database)}"))

    def direct(self, url: str) -> str:
        """The way past the pooler to the database of `url`, as the role that made it."""
        return self.url(urlsplit(url).path.removeprefix("/"))

    async def create_empty(self) -> str:
        """The URL of a new database without our schema, past the pooler: it is to be migrated."""
        return self.url(await self._create("template0"))

    async def create(self) -> str:
        """The URL of a new database at the newest schema revision, through the pooler."""
        today = datetime.now(UTC).date()
        if self._template is None or self._template_day != today:
            # Its partitions begin on the day on which they are made: a run may last past midnight.
            template = await self._create("template0")
            await migrate(self.url(template))
            await self._drop_template()
            self._template, self._template_day = template, today
        url = self.url(await self._create(self._template))
        return url if self._pooler is None else self._pooler.url(url)

    async def drop(self, url: str) -> None:
        """Drop it, and end whatever is still connected to it."""
        name = urlsplit(url).path.removeprefix("/")
        await self._admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def close(self) -> None:
        await self._drop_template()
        await self._admin.close()

    async def _drop_template(self) -> None:
        if self._template is not None:
            await self.drop(self.url(self._template))

    async def _create(self, template: str) -> str:
        self._made += 1
        name = f"relay_test_{self._run}_{self._made}"
        await self._admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name
