"""Ways between two processes that can be slowed, cut and swallowed: TCP proxies in a process.

    python -m tests.faults.proxy

reads one JSON object per line from its standard input and answers each with one on its standard
output: ``{"open": "a>b", "to": ["127.0.0.1", 5432]}`` gives ``{"port": …}``, ``{"way": "a>b",
"to": …}`` leads new connections elsewhere, ``{"way": "a>b", "mode": …, "value": …}`` changes what
becomes of the bytes, and ``{"way": "a>b", "hold": [40001, …]}`` keeps what the connections from
these ports send from now on, until ``{"way": "a>b", "hold": []}``; the answer says how many
``bytes`` are kept. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from relay.dev.process import TERMINATE

Mode = Literal["open", "black_hole", "latency", "bandwidth", "half_open", "cut"]
"""`open` lets everything through. `black_hole` takes connections and bytes and gives nothing on.
`latency` is seconds for each piece, `bandwidth` bytes a second. `half_open` ends the far side of
every connection without telling the near side, and `cut` resets both; new ones go through."""

_PIECE = 65_536


class Way:
    """From one listening port to one address."""

    def __init__(self) -> None:
        self.target: tuple[str, int] = ("127.0.0.1", 0)
        self.seconds = 0.0
        self.bytes_a_second = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._half_open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._held_ports: frozenset[int] = frozenset()
        self._released = asyncio.Event()
        self.held_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    def set_mode(self, mode: Mode, value: float) -> None:
        self.seconds = value if mode == "latency" else 0.0
        self.bytes_a_second = value if mode == "bandwidth" else 0.0
        if mode == "black_hole":
            self._flowing.clear()
        else:
            self._flowing.set()
        if mode == "half_open":
            self._half_open |= self._pairs
            for _, far in self._pairs:
                far.transport.abort()
        if mode == "cut":
            for near, far in self._pairs:
                _reset(near)
                _reset(far)

    def hold(self, ports: Collection[int]) -> None:
        """What was sent from these ports is kept from now on, and goes on when others are named."""
        if self._held_ports != (named := frozenset(ports)):
            self._released.set()
            self._released = asyncio.Event()
            self._held_ports = named
            self.held_bytes = 0

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            back, far = await asyncio.open_connection(*self.target)
        except OSError:
            near.transport.abort()
            return
        pair = (near, far)
        self._pairs.add(pair)
        there = asyncio.create_task(self._pump(reader, far, near.get_extra_info("peername")[1]))
        here = asyncio.create_task(self._pump(back, near))
        self._tasks |= {there, here}
        await asyncio.wait({there, here}, return_when=asyncio.FIRST_COMPLETED)
        if pair in self._half_open:
            await asyncio.wait({there})  # until the near side itself gives up
        near.close()  # what it was sent still goes out
        far.close()
        await asyncio.gather(there, here, return_exceptions=True)
        self._tasks -= {there, here}
        self._pairs.discard(pair)
        self._half_open.discard(pair)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, port: int | None = None
    ) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE):
                if port in self._held_ports:
                    self.held_bytes += len(data)
                    await self._released.wait()
                await self._flowing.wait()
                if self.seconds:
                    await asyncio.sleep(self.seconds)
                if self.bytes_a_second:
                    await asyncio.sleep(len(data) / self.bytes_a_second)
                if not sink.transport.is_closing():
                    sink.write(data)
                    await sink.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a firewall does, and not in order."""
    at_once = struct.pack("ii", 1, 0)
    with suppress(OSError):  # it may be closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()


class Proxies:
    """The same from the side of the rig."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()

    async def start(self, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.faults.proxy"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )

    async def stop(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            async with asyncio.timeout(sum(seconds for _, seconds in TERMINATE)):
                await self._process.wait()

    async def open(self, name: str, port: int) -> int:
        """Make a way to a port of 127.0.0.1; the port to take instead."""
        answer = await self._ask({"open": name, "to": ["127.0.0.1", port]})
        self.ports[name] = answer["port"]
        return self.ports[name]

    async def lead(self, name: str, port: int) -> None:
        """New connections go to another port from now on."""
        await self._ask({"way": name, "to": ["127.0.0.1", port]})

    async def set_mode(self, prefix: str, mode: Mode, value: float = 0.0) -> None:
        """Of every way whose name starts so."""
        ways = [name for name in self.ports if name.startswith(prefix)]
        assert ways, f"no way is called {prefix}…"
        for name in ways:
            await self._ask({"way": name, "mode": mode, "value": value})

    async def hold(self, prefix: str, ports: Collection[int]) -> int:
        """Keep what is sent from these ports through every such way; how many bytes it is yet."""
        ways = [name for name in self.ports if name.startswith(prefix)]
        answers = [await self._ask({"way": name, "hold": sorted(ports)}) for name in ways]
        return sum(answer["bytes"] for answer in answers)

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        # To the end also for whoever gives up: an answer that is left behind would be taken for
        # that of the next question.
        return await asyncio.shield(self._exchange(question))

    async def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._asking:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer


async def main() -> None:
    ways: dict[str, Way] = {}
    loop = asyncio.get_running_loop()
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    while line := await questions.readline():
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if "open" in asked:
            way = ways[asked["open"]] = Way()
            answer["port"] = await way.open()
        else:
            way = ways[asked["way"]]
        if "to" in asked:
            way.target = (asked["to"][0], asked["to"][1])
        if "mode" in asked:
            way.set_mode(asked["mode"], asked["value"])
        if "hold" in asked:
            way.hold(asked["hold"])
            answer["bytes"] = way.held_bytes
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
