"""A primary and its synchronous standby: real servers, replicated by streaming."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from relay.dev.postgres import EmbeddedPostgres, installations, run_as
from relay.dev.process import Process
from tests.support.processes import eventually, parent_of

_SETTINGS = {"max_connections": "60", "wal_receiver_status_interval": "1"}


class Replicas:
    """`primary` commits when `standby` has it, too; both are below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.primary = EmbeddedPostgres(directory / "one", settings=_SETTINGS)
        self.standby = EmbeddedPostgres(directory / "two", settings=_SETTINGS)

    @property
    def url(self) -> str:
        """Of both hosts, the standby first."""
        parts = urlsplit(self.primary.dsn)
        login = parts.netloc.rpartition("@")[0]
        hosts = f"127.0.0.1:{self.standby.port},127.0.0.1:{self.primary.port}"
        return f"postgresql://{login}@{hosts}{parts.path}"

    async def start(self) -> None:
        self.primary.start()
        await follow(self.primary, self.standby)

    def stop(self) -> None:
        for server in (self.standby, self.primary):
            server.stop()

    async def fail_over(self) -> None:
        """The primary crashed: the standby takes its place."""
        await execute(self.standby, "SELECT pg_promote()")


async def follow(leader: EmbeddedPostgres, follower: EmbeddedPostgres) -> None:
    """Make `follower` a synchronous standby of `leader`, as of now."""
    name = follower.data_dir.name
    await asyncio.to_thread(_copy, leader, follower, name)
    await asyncio.to_thread(follower.start)
    await execute(leader, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    await execute(leader, "SELECT pg_reload_conf()")

    async def is_synchronous() -> bool:
        state = await execute(leader, "SELECT min(sync_state) FROM pg_stat_replication")
        return state == "sync"

    await eventually(is_synchronous, deadline=60)


class Frozen:
    """Every process of a server is stopped within the block, and goes on after it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._pids = [server.pid, *_children(server.pid)]

    def __enter__(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)


async def execute(server: EmbeddedPostgres, statement: str) -> object:
    """Run one statement on a server and return its value."""
    pg = await asyncpg.connect(server.dsn)
    try:
        return await pg.fetchval(statement)
    finally:
        await pg.close()


def _copy(leader: EmbeddedPostgres, follower: EmbeddedPostgres, name: str) -> None:
    user = run_as(leader.cluster)
    follower.data_dir.mkdir(mode=0o711)
    shutil.copyfile(leader.data_dir / "password", follower.data_dir / "password")
    follower.cluster.mkdir(mode=0o700)
    if user is not None:
        os.chown(follower.cluster, *user)
    log = follower.data_dir / "pg_basebackup.log"
    with log.open("wb") as stream:
        status = Process(
            [
                installations()[0].programs / "pg_basebackup",
                f"--pgdata={follower.cluster}",
                f"--dbname={leader.dsn}?application_name={name}",
                "--write-recovery-conf",
                "--checkpoint=fast",
            ],
            log=stream,
            stop_with=((signal.SIGKILL, 5.0),),
            user=user,
            reach=[follower.cluster],
        ).wait()
    assert status == 0, log.read_text()


def _children(pid: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(IndexError):  # it has ended meanwhile
            if parent_of(int(each.name)) == pid:
                found.append(int(each.name))
    return found
