"""The two terminals of a reader: `relay dev` in the first, everything else in the second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.dev.postgres import installations
from relay.settings import envfile

HANGS_SECONDS = 180.0


class Shell:
    """The reader's second terminal: one bash, so that what a command sets is there later."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=directory,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """Its exit status and what it printed."""
        bash, end = self._process, "end-of-command"
        assert bash.stdin is not None
        assert bash.stdout is not None
        bash.stdin.write(f'{{\n{command}\n}} </dev/null; echo "{end}:$?"\n')
        printed: list[str] = []
        hangs = threading.Timer(HANGS_SECONDS, os.killpg, (bash.pid, signal.SIGKILL))
        hangs.start()
        try:
            for line in bash.stdout:
                text, found, status = line.partition(f"{end}:")
                printed.append(text)
                if found:
                    return int(status), "".join(printed)
        finally:
            hangs.cancel()
        raise AssertionError(f"$ {command}\nhas not ended, or bash has: {''.join(printed)}")

    def close(self) -> None:
        self._process.communicate()


class FirstTerminal:
    """Where `relay dev` runs, one after the other."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._directory = directory
        self._environ = environ
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Ctrl-C for what runs, and `relay dev` anew; returns what it has printed when ready."""
        self.stop()
        ports = ("--port", "0", "--admin-port", "0")  # others may have the usual ones
        self._process = subprocess.Popen(
            [sys.executable, "-m", "relay", "dev", *ports],
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        printed: list[str] = []
        for line in self._process.stdout:
            printed.append(line)
            if line == "ready\n":
                return "".join(printed)
        raise AssertionError(f"not ready: {''.join(printed)}")

    @property
    def left(self) -> dict[str, str]:
        """What `relay dev` has written to its relay.env."""
        return envfile.read(self._directory / ".relay" / "relay.env")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.communicate(timeout=60)
            assert self._process.returncode == 0
            self._process = None


@contextmanager
def terminals(directory: Path) -> Iterator[tuple[FirstTerminal, Shell]]:
    """Both, in this new directory, in the environment of somebody who has just installed relay."""
    temporary = directory.with_name("tmp")
    for each in (directory, temporary):
        each.mkdir()
    # `relay` of this environment first; psql of the embedded PostgreSQL where there is no other.
    (programs,) = {each.programs for each in installations() if each.major == 18}
    path = (str(Path(sys.executable).parent), os.environ["PATH"], str(programs))
    clean = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    environ = {**clean, "PATH": ":".join(path), "TMPDIR": str(temporary), "COLUMNS": "200"}
    first, second = FirstTerminal(directory, environ), Shell(directory, environ)
    try:
        yield first, second
    finally:
        second.close()
        first.stop()
