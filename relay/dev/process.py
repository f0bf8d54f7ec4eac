"""Programs that development and tests start: watched, stopped in order, never left behind."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from relay.core.errors import RelayError
from relay.dev import guard

# How a program is asked to end when nothing else is said: politely, then for good.
TERMINATE: Sequence[tuple[int, float]] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


_FIRST_PORT = 20_000
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


class StartError(RelayError):
    """An embedded program does not start; the message tells why, with the end of its log."""

    default_code = "start_failed"


class Process:
    """A program that runs until ``stop`` or until this Python process ends, however it ends.

    ``log`` receives everything it writes. ``files`` are descriptors that it inherits. ``user`` is
    the (uid, gid) to run as, which only root can choose; ``reach`` are paths that this user needs.
    ``stop_with`` are signals with the seconds to wait after each, the last of them SIGKILL.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: IO[bytes],
        environment: Mapping[str, str] | None = None,
        stop_with: Sequence[tuple[int, float]] = TERMINATE,
        files: Sequence[int] = (),
        user: tuple[int, int] | None = None,
        reach: Sequence[Path] = (),
    ) -> None:
        plan = {
            "command": [str(part) for part in command],
            "stop": list(stop_with),
            "files": list(files),
            "user": user,
            "reach": [str(path) for path in reach],
        }
        # A session of its own: Ctrl-C in the terminal and a kill of our process group reach us
        # only, and the guard then stops the program in order.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=None if environment is None else dict(environment),
            pass_fds=files,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as report:
            self.pid = int(report.readline() or 0)

    @property
    def exit_status(self) -> int | None:
        """None while it runs; 128 + signal when a signal ended it."""
        return self._guard.poll()

    def wait(self) -> int:
        """Wait until the program ends by itself, and tell its exit status."""
        status = self._guard.wait()
        self.stop()
        return status

    def stop(self) -> None:
        """End the program as ``stop_with`` says, and wait for its end. Harmless when it has ended.

        It goes the same way as the end of this process: the guard's standard input closes.
        """
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()

    def kill(self) -> None:
        """End the program with SIGKILL, as a crash would."""
        if self.exit_status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.stop()


class Service(ABC):
    """Something with a start and a stop, for ``with`` and for ``async with``."""

    @abstractmethod
    def start(self) -> None:
        """Start it and return when it is ready. Blocks. Raises StartError."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it and return when it has ended. Blocks; harmless when it does not run."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.create_task(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread cannot be cancelled: let it come to its end, then undo what it did.
            with suppress(StartError):
                await starting
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)


def free_port(preferred: int | None = None) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on: the preferred one if it is free.

    Else one that the kernel does not give to outgoing connections, where there is such a range: a
    server that is away for a while finds it free again. Another program may take it before it is
    used: who starts a server on it tries again then.
    """
    for port in (preferred, *_lasting_ports(), 0):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartError("no free TCP port on 127.0.0.1")


def _lasting_ports() -> list[int]:
    """Some of those below the range of outgoing connections; none where Linux does not tell it."""
    with suppress(OSError, ValueError):
        end = int(_OUTGOING_PORTS.read_text().split()[0])
        if end > _FIRST_PORT:
            return random.sample(range(_FIRST_PORT, end), 10)
    return []


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, indented, for an error message."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 16_384))
        lines = stream.read().decode(errors="replace").splitlines()[-count:]
    return "\n".join(f"  {line}" for line in lines) or "  (it wrote nothing)"
