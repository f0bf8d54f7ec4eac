"""The command `relay` as a process of its own, and whatever it may leave behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import IO


class Command:
    """Starts `relay` in an environment without settings, in a directory of its own.

    Every process that comes of it inherits a mark, by which `left_running` knows them.
    """

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.home = directory / "home"
        for each in (self.temporary, self.home):
            each.mkdir(parents=True, exist_ok=True)
        # Not RELAY_…, which the command would take for a misspelt setting.
        self._mark = f"MARK_OF_TEST={secrets.token_hex(8)}"
        name, _, value = self._mark.partition("=")
        clean = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
        places = {"TMPDIR": str(self.temporary), "HOME": str(self.home)}
        self._environ = {**clean, **places, name: value, **environ}

    def start(
        self, *args: str, script: str | None = None, stderr: int | IO[str] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """`relay` with these arguments, or a Python script instead of it; stdout is a pipe."""
        program = ["-m", "relay"] if script is None else ["-c", script]
        return subprocess.Popen(
            [sys.executable, *program, *args],
            cwd=self.directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(
        self, *args: str, exits: int = 0, script: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end; fails the test unless it exits with ``exits``."""
        process = self.start(*args, script=script)
        try:
            out, err = process.communicate(timeout=180)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert process.returncode == exits, f"exit status {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def processes(self) -> list[tuple[int, str]]:
        """The pids and command lines of what is running of it."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark.encode() in environ.read_bytes().split(b"\0"):
                    line = environ.with_name("cmdline").read_bytes().decode(errors="replace")
                    found.append((int(environ.parent.name), line.replace("\0", " ")))
            except OSError:
                continue
        return found

    def left_running(self) -> list[str]:
        """The command lines of the processes that are still there."""
        return [line for _, line in self.processes()]
