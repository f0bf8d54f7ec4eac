"""The proxies do to a connection what they are told to do, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.proxy import Proxies
from tests.support.processes import eventually

SHORT_SECONDS = 0.3


@pytest_asyncio.fixture
async def proxies(tmp_path: Path) -> AsyncIterator[Proxies]:
    proxies = Proxies()
    await proxies.start(tmp_path / "proxies.log")
    yield proxies
    await proxies.stop()
    assert (tmp_path / "proxies.log").read_text() == ""


@pytest_asyncio.fixture
async def echo(proxies: Proxies) -> AsyncIterator[int]:
    """A server that says again what it hears, and tells nobody how it ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(writer)
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()
        answering.discard(writer)

    answering: set[asyncio.StreamWriter] = set()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await eventually(lambda: not answering)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connected(proxies: Proxies, port: int) -> Streams:
    made = await proxies.open("a>b", port)
    streams = await asyncio.open_connection("127.0.0.1", made)
    assert await said_again(streams, b"first")
    return streams


async def said_again(streams: Streams, text: bytes, *, seconds: float = 10.0) -> bool:
    """Whether the echo comes in time."""
    reader, writer = streams
    writer.write(text)
    try:
        async with asyncio.timeout(seconds):
            return await reader.readexactly(len(text)) == text
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        return False


async def test_a_black_hole_swallows_until_it_is_open_again(proxies: Proxies, echo: int) -> None:
    streams = await connected(proxies, echo)
    await proxies.set_mode("a>", "black_hole")
    assert not await said_again(streams, b"second", seconds=SHORT_SECONDS)
    await proxies.set_mode("a>", "open")
    assert await streams[0].readexactly(6) == b"second"
    streams[1].close()


async def test_a_connection_that_is_cut_ends_and_another_one_works(
    proxies: Proxies, echo: int
) -> None:
    streams = await connected(proxies, echo)
    await proxies.set_mode("a>b", "cut")
    with pytest.raises(ConnectionResetError):
        await streams[0].readexactly(1)
    streams[1].close()
    others = await asyncio.open_connection("127.0.0.1", proxies.ports["a>b"])
    assert await said_again(others, b"again")
    others[1].close()


async def test_nobody_hears_of_a_half_open_connection(proxies: Proxies, echo: int) -> None:
    streams = await connected(proxies, echo)
    await proxies.set_mode("a>b", "half_open")
    assert not await said_again(streams, b"second", seconds=SHORT_SECONDS)
    assert not streams[0].at_eof()
    others = await asyncio.open_connection("127.0.0.1", proxies.ports["a>b"])
    assert await said_again(others, b"again")
    for _, writer in (streams, others):
        writer.close()


async def test_what_one_connection_sends_is_held_and_goes_on(proxies: Proxies, echo: int) -> None:
    streams = await connected(proxies, echo)
    others = await asyncio.open_connection("127.0.0.1", proxies.ports["a>b"])
    own = {streams[1].get_extra_info("sockname")[1]}
    assert await proxies.hold("a>", own) == 0
    assert not await said_again(streams, b"second", seconds=SHORT_SECONDS)
    assert await said_again(others, b"through")
    assert await proxies.hold("a>", own) == len(b"second")
    await proxies.hold("a>", ())
    assert await streams[0].readexactly(6) == b"second"
    assert await said_again(streams, b"third")
    for _, writer in (streams, others):
        writer.close()


async def test_a_way_leads_elsewhere(proxies: Proxies, echo: int) -> None:
    await proxies.open("a>b", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxies.ports["a>b"])
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    await proxies.lead("a>b", echo)
    streams = await asyncio.open_connection("127.0.0.1", proxies.ports["a>b"])
    assert await said_again(streams, b"there")
    streams[1].close()


async def test_latency_delays_and_the_end_of_a_connection_comes_through(
    proxies: Proxies, echo: int
) -> None:
    streams = await connected(proxies, echo)
    await proxies.set_mode("a>b", "latency", SHORT_SECONDS)
    assert not await said_again(streams, b"second", seconds=SHORT_SECONDS)
    assert await streams[0].readexactly(6) == b"second"
    streams[1].write_eof()
    assert await streams[0].read() == b""
    streams[1].close()
