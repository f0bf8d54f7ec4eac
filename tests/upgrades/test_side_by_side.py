"""A build runs on the schema of the next one and on that of the last one, while it is migrated.

Receivers and forwarders of both are under load, and the schema goes up and down beneath them: not
one answer but 2xx, nothing lost, nothing repeated, nothing out of order.

The build after this one is the same code and a migration that the tests bring along; the one
before it comes out of the repository's history.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from relay.store.schema import BUILD_REVISION
from relay.store.sealing import new_key
from tests.acceptance.fleet import THIS_BUILD, Program, command, environment
from tests.upgrades import next_build
from tests.upgrades.side_by_side import side_by_side

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NEXT_BUILD: Program = (sys.executable, next_build.__file__)
ROUNDS = 2


@pytest.fixture
def settings(empty_database_url: str, kafka: str) -> dict[str, str]:
    return environment(
        RELAY_DATABASE_URL=empty_database_url,
        RELAY_KAFKA_BOOTSTRAP_SERVERS=kafka,
        RELAY_ENCRYPTION_KEYS=new_key(),
    )


@pytest.fixture
async def pg(empty_database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


async def test_this_build_and_the_next(
    settings: dict[str, str], topic_prefix: str, tmp_path: Path, pg: asyncpg.Connection
) -> None:
    status, _, errors = await command("migrate", environment=settings)
    assert status == 0, errors
    async with side_by_side(
        THIS_BUILD, NEXT_BUILD, settings, tmp_path, topic_prefix=topic_prefix, pg=pg
    ) as builds:
        for _ in range(ROUNDS):
            await builds.becomes("older", ready=True)
            await builds.becomes("newer", ready=False, because="run `relay migrate`")
            await builds.migrate()
            await builds.some_more()
            await builds.becomes("older", ready=True)
            await builds.becomes("newer", ready=True)
            await builds.migrate("--to", str(BUILD_REVISION), "--yes")
            await builds.some_more()
        await builds.migrate()
        await builds.some_more()


async def test_this_build_and_the_last(
    settings: dict[str, str], topic_prefix: str, tmp_path: Path, pg: asyncpg.Connection
) -> None:
    last = str(BUILD_REVISION - 1)
    older = _out_of_history(tmp_path / "last")
    for arguments in ((), ("--to", last, "--yes")):
        status, _, errors = await command("migrate", *arguments, environment=settings)
        assert status == 0, errors
    async with side_by_side(
        older, THIS_BUILD, settings, tmp_path, topic_prefix=topic_prefix, pg=pg
    ) as builds:
        for _ in range(ROUNDS):
            await builds.becomes("older", ready=True)
            await builds.becomes("newer", ready=False, because="run `relay migrate`")
            await builds.migrate()
            await builds.some_more()
            await builds.becomes("older", ready=True)
            await builds.becomes("newer", ready=True)
            await builds.migrate("--to", last, "--yes")
            await builds.some_more()
        await builds.migrate()
        await builds.some_more()


def _out_of_history(directory: Path) -> Program:
    """The last build with the revision before ours, as it was committed; skips without it."""
    if BUILD_REVISION == 1:
        pytest.skip("there is no revision before the first one")
    line = f"BUILD_REVISION = {BUILD_REVISION}"
    found = _git("log", "--reverse", "--format=%H", f"-S{line}", "--", "relay/store/schema.py")
    commits = (found or b"").decode().split()
    archive = _git("archive", f"{commits[0]}~", "relay", "migrations") if commits else None
    if archive is None:
        pytest.skip(f"this checkout has no history to take the build before {line!r} from")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(directory, filter="data")
    schema = (directory / "relay" / "store" / "schema.py").read_text()
    assert f"BUILD_REVISION = {BUILD_REVISION - 1}\n" in schema
    start = "from relay.cli.main import main; main(prog_name='relay')"
    return (sys.executable, "-c", f"import sys; sys.path[0] = {str(directory)!r}; {start}")


def _git(*arguments: str) -> bytes | None:
    """What git says; None when there is no git, no repository, or not enough of its history."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
