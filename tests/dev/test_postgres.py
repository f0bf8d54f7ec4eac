"""The embedded PostgreSQL: durable, alone on its directory, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from relay.dev import postgres
from relay.dev.postgres import EmbeddedPostgres, Installation, choose, installations, run_as
from relay.dev.process import Process, StartError, free_port
from tests.support.processes import eventually, hold, parent_of, running

HOLD = """
import signal, sys
from relay.dev.postgres import EmbeddedPostgres
with EmbeddedPostgres(sys.argv[1]) as server:
    print(server.pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "data") as server:
        yield server


async def ask(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def zombie_of(uid: int) -> Iterator[int]:
    """The pid of a process that has ended and is not reaped yet."""
    with subprocess.Popen(["true"], user=uid if os.geteuid() == 0 else None) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


async def test_is_a_durable_server_of_the_newest_version(server: EmbeddedPostgres) -> None:
    newest = max(installation.major for installation in installations())
    assert int(str(await ask(server.dsn, "SHOW server_version_num"))) // 10_000 == newest
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert await ask(server.dsn, f"SHOW {setting}") == "on"
    assert await ask(server.dsn, "SHOW server_encoding") == "UTF8"
    assert await ask(server.dsn, "SELECT datcollate FROM pg_database LIMIT 1") == "C"


async def test_takes_settings(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / "data", settings={"max_connections": "7"}) as server:
        assert await ask(server.dsn, "SHOW max_connections") == "7"


async def test_asks_for_the_password_and_listens_on_loopback_only(server: EmbeddedPostgres) -> None:
    assert await ask(server.dsn, "SHOW listen_addresses") == "127.0.0.1"
    assert await ask(server.dsn, "SHOW unix_socket_directories") == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(f"postgresql://postgres:guess@127.0.0.1:{server.port}/postgres", "SELECT 1")
    assert (server.data_dir / "password").stat().st_mode & 0o077 == 0
    assert server.log.stat().st_mode & 0o077 == 0


async def test_keeps_data_and_port_over_a_restart(server: EmbeddedPostgres) -> None:
    dsn = server.dsn
    await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.stop()
    server.start()
    assert server.dsn == dsn
    assert await ask(dsn, "SELECT answer FROM kept") == 42


async def test_keeps_what_was_committed_before_sigkill(server: EmbeddedPostgres) -> None:
    await ask(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    dead = server.pid
    server.kill()
    assert not running(dead)
    server.start()
    assert await ask(server.dsn, "SELECT answer FROM kept") == 42


async def test_takes_another_port_when_its_last_one_is_taken(server: EmbeddedPostgres) -> None:
    last = server.port
    server.stop()
    async with EmbeddedPostgres(server.data_dir.with_name("other")) as other:
        server.stop()
        (server.data_dir / "port").write_text(str(other.port))
        server.start()
        assert server.port not in (last, other.port)


async def test_starts_over_when_the_chosen_port_is_taken_meanwhile(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    async with EmbeddedPostgres(server.data_dir.with_name("other")) as other:
        answers = iter([other.port, free_port()])
        monkeypatch.setattr(postgres, "free_port", lambda _preferred: next(answers))
        server.start()
    assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_stale_pid_file_with_the_pid_of_a_live_process_is_no_server(
    server: EmbeddedPostgres,
) -> None:
    server.kill()
    pid_file = server.cluster / "postmaster.pid"
    stale = pid_file.read_text().splitlines()
    # Another PostgreSQL has the user id that makes the number look like a live server of ours.
    async with EmbeddedPostgres(server.data_dir.with_name("other")) as other:
        pid_file.write_text("\n".join([str(other.pid), *stale[1:]]) + "\n")
        server.start()
        assert await ask(server.dsn, "SELECT 1") == 1
        assert running(other.pid)


async def test_a_stale_pid_file_with_the_pid_of_a_zombie_is_no_server(
    server: EmbeddedPostgres,
) -> None:
    owner = server.cluster.stat().st_uid
    server.kill()
    pid_file = server.cluster / "postmaster.pid"
    stale = pid_file.read_text().splitlines()
    with zombie_of(owner) as zombie:
        pid_file.write_text("\n".join([str(zombie), *stale[1:]]) + "\n")
        server.start()
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_server_that_somebody_started_by_hand_is_left_alone(
    server: EmbeddedPostgres,
) -> None:
    server.stop()
    program = choose(installations(), server.cluster).programs / "postgres"
    port = free_port()
    command: list[str | Path] = [program, "-D", server.cluster]
    command += ["-p", str(port), "-k", "", "-h", "127.0.0.1"]
    with (server.data_dir / "hand.log").open("wb") as log:
        by_hand = Process(
            command, log=log, user=run_as(server.cluster), reach=[server.cluster / "PG_VERSION"]
        )
    try:
        pid_file = server.cluster / "postmaster.pid"
        await eventually(lambda: pid_file.exists() and "ready" in pid_file.read_text())
        with pytest.raises(StartError, match=r"postmaster\.pid"):
            server.start()
        assert pid_file.exists()
        password = (server.data_dir / "password").read_text()
        assert await ask(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", "SELECT 1")
    finally:
        by_hand.stop()


async def test_a_long_path_works(tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*["a-directory-with-a-rather-long-name"] * 6)
    assert len(str(directory)) > 200
    async with EmbeddedPostgres(directory) as server:
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_path_with_blanks_and_quotes_works(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path / 'it\'s a "dir" %d ü') as server:
        assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_second_one_in_this_process_is_refused(server: EmbeddedPostgres) -> None:
    second = EmbeddedPostgres(server.data_dir)
    with pytest.raises(StartError, match="in use by another process"):
        second.start()
    assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_second_process_on_the_directory_is_refused(tmp_path: Path) -> None:
    process, pid = hold(HOLD, tmp_path / "data")
    try:
        with pytest.raises(StartError, match="in use by another process"):
            EmbeddedPostgres(tmp_path / "data").start()
        assert running(pid)
    finally:
        process.terminate()
        process.wait(timeout=60)
    await eventually(lambda: not running(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_nothing_is_left_of_a_process_group_that_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    process, pid = hold(HOLD, tmp_path / "data")
    guard = parent_of(pid)
    os.killpg(process.pid, number)
    process.wait(timeout=60)
    # At once, while the first server may still be shutting down.
    async with EmbeddedPostgres(tmp_path / "data") as again:
        assert await ask(again.dsn, "SELECT 1") == 1
    assert not running(pid)
    await eventually(lambda: not running(guard))


async def test_the_server_ends_when_its_guard_is_killed(server: EmbeddedPostgres) -> None:
    pid = server.pid
    os.kill(parent_of(pid), signal.SIGKILL)
    await eventually(lambda: not running(pid))
    server.stop()
    server.start()
    assert await ask(server.dsn, "SELECT 1") == 1


async def test_half_a_cluster_is_made_anew(tmp_path: Path) -> None:
    unfinished = tmp_path / "data" / "pgdata.new"
    unfinished.mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    (tmp_path / "data" / "password").write_text("of the interrupted try")
    async with EmbeddedPostgres(tmp_path / "data") as server:
        assert await ask(server.dsn, "SELECT 1") == 1
    assert not unfinished.exists()


async def test_a_server_that_does_not_start_says_why(server: EmbeddedPostgres) -> None:
    server.stop()
    broken = EmbeddedPostgres(server.data_dir, settings={"shared_buffers": "a lot"})
    with pytest.raises(StartError, match='invalid value for parameter "shared_buffers"'):
        broken.start()
    # It has let go of the directory.
    server.start()


def test_a_directory_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"cannot start PostgreSQL in .*file/data"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its user")
async def test_root_may_use_a_directory_that_only_root_can_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with EmbeddedPostgres(private / "data") as server:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert os.stat(f"/proc/{server.pid}").st_uid != 0
    assert private.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes its user")
async def test_root_may_have_installed_it_where_only_root_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = installations()[0]
    package = newest.programs.parents[1]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    install = Path(package.name, newest.programs.parent.name)
    libraries = f"{package.name}.libs"
    shutil.copytree(package.parent / install, private / install)
    shutil.copytree(package.parent / libraries, private / libraries)
    hidden = Installation(newest.major, private / install / "bin")
    monkeypatch.setattr(postgres, "installations", lambda: [hidden])
    async with EmbeddedPostgres(tmp_path / "data") as server:
        assert await ask(server.dsn, "SELECT 1") == 1


# What Docker leaves to root, as far as it matters here.
DOCKER = "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+setpcap"


def start_with_capabilities(bounding_set: str, directory: Path) -> subprocess.CompletedProcess[str]:
    script = "import sys; from relay.dev.postgres import EmbeddedPostgres as P\n"
    script += "with P(sys.argv[1]) as server: print(server.dsn)"
    python = [sys.executable, "-c", script, str(directory)]
    command = ["setpriv", f"--bounding-set={bounding_set}", *python]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)
def test_root_in_a_container_may_use_a_private_directory_too(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    done = start_with_capabilities(DOCKER, tmp_path / "private" / "data")
    assert done.stdout.startswith("postgresql://"), done.stderr


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)
def test_where_root_may_not_pass_the_error_tells_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    bounding_set = "-dac_override,-dac_read_search"
    done = start_with_capabilities(bounding_set, tmp_path / "private" / "data")
    assert done.returncode == 1
    assert "Use a directory that everybody can enter, or run as another user" in done.stderr


def test_a_cluster_is_run_by_the_version_that_made_it(tmp_path: Path) -> None:
    old, new = Installation(16, Path("old")), Installation(18, Path("new"))
    assert choose([new, old], tmp_path) == new
    (tmp_path / "PG_VERSION").write_text("16\n")
    assert choose([new, old], tmp_path) == old
    (tmp_path / "PG_VERSION").write_text("14\n")
    with pytest.raises(StartError, match=r"made by PostgreSQL 14, .* has 18, 16"):
        choose([new, old], tmp_path)
