"""relay's processes, each in a slot with its own way to the servers; what ends is started again.

A supervisor starts again what ended, as systemd or Kubernetes would. Nothing else is done for them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.acceptance.fleet import Serving
from tests.faults.proxy import Proxies

HOOKS = Path(__file__).with_name("hooks")
"""On the import path of every process: what the tests patch in it, see `hooks/sitecustomize.py`."""

_RESTART_SECONDS = 0.5
_FAKETIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketime.so.1"


class Slot:
    """The place of one process, e.g. ``forwarder-2``."""

    def __init__(
        self, name: str, environment: Mapping[str, str], directory: Path, proxies: Proxies
    ) -> None:
        self.name = name
        self.role = name.partition("-")[0]
        self.serving: Serving | None = None
        self.ended: list[tuple[float, int]] = []
        """When it ended by itself, and its exit status; signals that we sent are not among them."""
        self.most_memory = 0
        """The largest resident size that was seen, in bytes."""
        self._environment = dict(environment)
        self._directory = directory
        self._proxies = proxies
        self._started = 0
        self._frozen = False
        self._down = False
        self._further: dict[str, str] = {}

    def start(self) -> None:
        log = self._directory / f"{self.name}.{self._started}.log"
        self._started += 1
        path = os.pathsep.join(filter(None, [str(HOOKS), os.environ.get("PYTHONPATH")]))
        environment = {**self._environment, **self._further, "PYTHONPATH": path}
        self.serving = Serving(self.role, environment, log)

    @property
    def pid(self) -> int:
        assert self.serving is not None
        return self.serving.pid

    @property
    def is_at_work(self) -> bool:
        return (
            self.serving is not None
            and self.serving.exit_status is None
            and not self._frozen
            and bool(self.serving.lines("app.started"))
        )

    async def started(self) -> None:
        assert self.serving is not None
        await self.serving.started()
        await self._lead()

    async def kill(self) -> None:
        """SIGKILL. The supervisor starts another one."""
        assert self.serving is not None
        self._down = True
        await self.serving.kill()
        await self._start_again()

    def freeze(self) -> None:
        self._frozen = True
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        self._frozen = False
        os.kill(self.pid, signal.SIGCONT)

    def ports(self) -> set[int]:
        """Its own of all its TCP connections."""
        sockets = set()
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed while we look
                sockets.add(os.readlink(each))
        lines = Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]
        fields = [line.split() for line in lines]
        return {int(f[1].rpartition(":")[2], 16) for f in fields if f"socket:[{f[9]}]" in sockets}

    async def restart(self, **environment: str) -> int | None:
        """SIGTERM, and another one with further settings; the exit status of the first."""
        assert self.serving is not None
        self._down = True
        self._further = environment
        status = await self.serving.stop()
        await self._start_again()
        return status

    async def stop(self) -> int | None:
        self._down = True
        if self._frozen:
            self.thaw()
        return None if self.serving is None else await self.serving.stop()

    async def supervise(self) -> None:
        """Start again what ended by itself, and look at its memory. Never returns."""
        while True:
            await asyncio.sleep(0.25)
            if self._down or self.serving is None:
                continue
            status = self.serving.exit_status
            if status is not None:
                self.ended.append((time.time(), status))
                await self._start_again()
            else:
                self.most_memory = max(self.most_memory, resident_bytes(self.pid))

    async def _start_again(self) -> None:
        await asyncio.sleep(_RESTART_SECONDS)
        self.start()
        self._down = False
        await self.started()

    async def _lead(self) -> None:
        if self.role == "receiver":
            assert self.serving is not None
            await self._proxies.lead(f"client>{self.name}", self.serving.port)


def resident_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def clock_off_by(minutes: int) -> dict[str, str] | None:
    """What gives a process another clock; None where libfaketime is not installed."""
    if not _FAKETIME.exists():
        return None
    return {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME": f"{minutes * 60:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
