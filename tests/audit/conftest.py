"""An inbox with events in every state, and an auditor's login that looks at it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio

from relay.audit import Report, Scope, audit
from relay.core.source import SourceConfig
from relay.store import deadletters, seals, sources
from relay.store.engine import Database
from tests.store.days import past, store_at
from tests.store.rows import OPERATOR, bury, deliver, fail, leave_out, new_event, store
from tests.support.logins import as_login


class Inbox:
    """What the tests of the audit look at, and damage as nobody but a superuser can."""

    def __init__(self, database: Database, pg: asyncpg.Connection, source_id: int) -> None:
        self.database = database
        self.pg = pg
        self.source_id = source_id
        self.ids: dict[str, int] = {}
        self._auditor = Database(as_login(database.dsn, "auditor"))

    async def fill(self) -> None:
        """One event of every kind, of today and of the days before, and all of it sealed."""
        self.old = await past(self.pg, 5)
        for number, each in enumerate(self.old):
            moment = each.lower + timedelta(hours=1)
            self.ids[f"day {number}"] = await store_at(self.pg, moment, source_id=self.source_id)
        names = (
            *("delivered", "skipped", "waiting", "retrying", "dead", "copied"),
            *("replayed", "discarded", "many"),
        )
        for name in names:
            (self.ids[name],) = await store(self.pg, new_event(self.source_id, f"evt_{name}"))
        await deliver(self.pg, self.ids["delivered"])
        await deliver(self.pg, self.ids["many"], records=4)
        await leave_out(self.pg, self.ids["skipped"])
        await fail(self.pg, self.ids["retrying"])
        await bury(self.pg, self.ids["dead"])
        await bury(self.pg, self.ids["copied"], copy=True)
        await deliver(self.pg, self.ids["copied"], kind=1)
        await bury(self.pg, self.ids["replayed"], self.ids["discarded"])
        letters = {
            row["inbox_id"]: row["id"]
            for row in await self.pg.fetch("SELECT id, inbox_id FROM relay.dead_letter")
        }
        async with self.database.begin() as connection:
            await deadletters.replay(connection, [letters[self.ids["replayed"]]], OPERATOR)
            await deadletters.discard(connection, [letters[self.ids["discarded"]]], OPERATOR)
        await deliver(self.pg, self.ids["replayed"], records=2)
        # In seals of their own, so that one can be taken out of the middle.
        await self.seal()
        for name in ("later", "last"):
            (self.ids[name],) = await store(self.pg, new_event(self.source_id, f"evt_{name}"))
            await deliver(self.pg, self.ids[name])
            await self.seal()

    async def seal(self) -> None:
        await seals.seal_round(self.pg)

    async def damage(self, statement: str, *arguments: object) -> None:
        """Past the triggers and the constraints that triggers stand for."""
        async with self.pg.transaction():
            await self.pg.execute("SET LOCAL session_replication_role = replica")
            done = await self.pg.execute(statement, *arguments)
        assert not done.endswith(" 0"), "nothing was damaged"

    async def audit(self, scope: Scope | None = None) -> Report:
        """As a login that may only look."""
        return await audit(self._auditor, scope or Scope())

    async def close(self) -> None:
        await self._auditor.close()


Named = Callable[[Report], set[tuple[str, int | None]]]


@pytest.fixture
def named() -> Named:
    """What a report complains of: the check and the inbox id."""
    return lambda report: {(each.check, each.inbox_id) for each in report.violations}


@pytest_asyncio.fixture
async def inbox(database: Database) -> AsyncIterator[Inbox]:
    config = SourceConfig(source_id=0, public_id="", name="shop", insecure=True)
    async with database.begin() as connection:
        made, _ = await sources.create(
            connection, config, sealed_secrets=[], sealed_stripe_key=None
        )
    async with database.driver() as pg:
        made_up = Inbox(database, pg, made.config.source_id)
        await made_up.fill()
        yield made_up
    await made_up.close()
