"""PgBouncer in transaction mode before a PostgreSQL server, for the tests to pass through.

Its settings are those of docs/pgbouncer.md, and a pool that is small on purpose: the fewer servers
its clients share, the more often one gets what another has left behind.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from relay.dev.postgres import run_as
from relay.dev.process import Process, Service, StartError, free_port, last_lines

START_SECONDS = 30.0
_PORT_TRIES = 5


class PgBouncer(Service):
    """Carries clients to every database of the server at `dsn`, as any of its roles.

    The role in `dsn` looks up how the others prove themselves, which only a superuser may. Other
    `settings` are set beside those of the documentation or instead of them.
    """

    def __init__(
        self, directory: str | Path, dsn: str, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.directory = Path(directory)
        self.log = self.directory / "pgbouncer.log"
        self.port = 0
        self._server = urlsplit(dsn)
        self._settings = dict(settings or {})
        self._process: Process | None = None

    def url(self, dsn: str) -> str:
        """The way through the pooler to the database that `dsn` names, as the role it names."""
        parts = urlsplit(dsn)
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}").geturl()

    def start(self) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise StartError("PgBouncer is missing (Debian: `pgbouncer`)")
        for _ in range(_PORT_TRIES):
            self.port = free_port()
            if self._run(program):
                return
            if "Address already in use" not in self.log.read_text():
                break
        raise StartError(f"PgBouncer does not start:\n{last_lines(self.log)}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _run(self, program: str) -> bool:
        self.directory.mkdir(parents=True, exist_ok=True)
        ini, users = self.directory / "pgbouncer.ini", self.directory / "users.txt"
        # It refuses root as PostgreSQL does.
        user = run_as(self.directory)
        _write(users, f"{_quoted(self._server.username)} {_quoted(self._server.password)}\n", user)
        _write(ini, self._configuration(users), user)
        with self.log.open("ab") as log:
            self._process = Process([program, ini], log=log, user=user, reach=[ini, users])
        deadline = time.monotonic() + START_SECONDS
        while self._process.exit_status is None and time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def _configuration(self, users: Path) -> str:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "auth_user": unquote(self._server.username or ""),
            "default_pool_size": "8",
            "max_client_conn": "1000",
            # Clients that wait for a server learn it before they give up by themselves.
            "query_wait_timeout": "10",
            **self._settings,
        }
        server = f"* = host={self._server.hostname} port={self._server.port or 5432}"
        lines = ["[databases]", server, "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        return "\n".join(lines) + "\n"


def _quoted(text: str | None) -> str:
    return '"' + unquote(text or "").replace('"', '""') + '"'


def _write(path: Path, text: str, owner: tuple[int, int] | None) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    if owner is not None:
        os.chown(path, *owner)
