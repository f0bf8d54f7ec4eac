"""The directory of `relay dev`: whose it is, and what it left there for the next time.

Below it::

    relay.env     how to reach everything, with the keys; readable by its owner only
    postgres/     the embedded PostgreSQL
    broker.log    of the embedded broker
    dev.lock      held by the process that uses the directory
    .gitignore    nothing of it belongs into a repository
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from relay.core.errors import ConfigError
from relay.dev.process import StartError
from relay.settings import envfile

_HEADING: Final = """\
Written by `relay dev` at every start: how other commands reach what it runs. Keep it secret.
Commands in this directory use it by themselves; for a shell: set -a; . FILE; set +a"""


class DataDirectory:
    """``path`` is made when it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.env_file = self.path / "relay.env"
        self.postgres = self.path / "postgres"
        self.broker_log = self.path / "broker.log"

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Hold it against another `relay dev`. The kernel frees the lock however we end."""
        try:
            # A PostgreSQL under another user id has to pass; what is secret in it has its own mode.
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            ignore = self.path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            lock = os.open(self.path / "dev.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StartError(f"--data-dir: cannot use {self.path}: {error.strerror}") from error
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            raise StartError(
                f"another `relay dev` (process {holder or 'unknown'}) is using {self.path}: stop"
                " that one, or choose another directory with --data-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def left(self) -> dict[str, str]:
        """What the last start wrote; nothing at the first. Raises ConfigError."""
        return envfile.read(self.env_file) if self.env_file.exists() else {}

    def leave(self, values: Mapping[str, str]) -> None:
        """Replace what other commands and the next start read."""
        try:
            envfile.write(self.env_file, values, heading=_HEADING)
        except OSError as error:
            raise ConfigError(f"cannot write {self.env_file}: {error.strerror}") from error
