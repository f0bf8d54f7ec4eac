"""A dump, restored into another cluster: the sealing goes on, and the audit is content."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from relay.audit import Scope, audit
from relay.dev.postgres import EmbeddedPostgres, Installation, installations
from relay.store import seals
from relay.store.engine import Database
from tests.audit.conftest import Inbox
from tests.store.rows import deliver, new_event, store
from tests.store.test_seals import assert_all_sealed_once, sealed_ids

pytestmark = pytest.mark.slow


async def run(program: Path, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        str(program), *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_dumped_and_restored_elsewhere(
    inbox: Inbox, direct_url: str, installation: Installation | None, tmp_path: Path
) -> None:
    # Both clusters and the programs are of one build. Others may lack lz4, or not know what the
    # server keeps in its catalog (`pg_attver`, since 15.20).
    build = installation or installations()[0]
    for _ in range(5000):
        await inbox.pg.execute("SELECT pg_current_xact_id()")
    (inbox.ids["old"],) = await store(inbox.pg, new_event(inbox.source_id, "evt_old"))
    await deliver(inbox.pg, inbox.ids["old"])
    await inbox.seal()
    kept = await seals.read_head(inbox.pg)
    assert kept is not None
    # Not sealed yet when it is dumped.
    for stored in await store(inbox.pg, *(new_event(inbox.source_id) for _ in range(3))):
        await deliver(inbox.pg, stored)
    dump = str(tmp_path / "relay.dump")
    await run(build.programs / "pg_dump", "-Fc", "--schema=relay", f"--file={dump}", direct_url)

    async with EmbeddedPostgres(tmp_path / "elsewhere", installation=build) as server:
        arguments = ("--no-owner", "--no-acl", f"--dbname={server.dsn}", dump)
        await run(build.programs / "pg_restore", *arguments)
        pg = await asyncpg.connect(server.dsn)
        database = Database(server.dsn)
        here = await pg.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        # Transactions begin anew there: what was not sealed yet seems to be of the future.
        assert here < await pg.fetchval("SELECT max(xact_id) FROM relay.inbox")
        assert (await audit(database, Scope(expected=(kept,)))).violations == ()
        for size in (1, 2):
            for stored in await store(pg, *(new_event(inbox.source_id) for _ in range(size))):
                await deliver(pg, stored)
            assert (await seals.seal_round(pg)).rows == (4 if size == 1 else 2)
            assert (await seals.seal_round(pg)).rows == 0
        await assert_all_sealed_once(pg)
        assert len(await sealed_ids(pg)) == 17 + 3 + 3
        report = await audit(database, Scope(expected=(kept,)))
        assert report.violations == ()
        assert report.notes == {}
        await database.close()
        await pg.close()
