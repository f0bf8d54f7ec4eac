"""deploy/nginx/relay.conf in a real nginx, in front of two receivers that are processes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from relay.dev import samples
from relay.store.sealing import new_key
from tests.acceptance.fleet import Answer, Serving, create_source, environment, get, read_answer
from tests.acceptance.sender import Webhook, sign
from tests.deploy.nginx import Nginx
from tests.deploy.tools import program, run
from tests.support.databases import Databases
from tests.support.processes import eventually

pytestmark = pytest.mark.slow

SECRET = "whsec_" + "n" * 32
LIMIT = 52_428_800
SECONDS = 60.0
"""How long anything may take before the test is lost; nothing is measured against it."""


class Front:
    """nginx and what stands behind it."""

    def __init__(self, nginx: Nginx, receivers: list[Serving], webhook: Webhook, database_url: str):
        self.nginx = nginx
        self.receivers = receivers
        self.webhook = webhook
        self._database_url = database_url

    @asynccontextmanager
    async def connection(
        self, client: str = "127.0.0.1"
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """One TLS connection, as a client of the world outside has it."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.nginx.port, ssl=self.nginx.tls, local_addr=(client, 0)
        )
        try:
            async with asyncio.timeout(SECONDS):
                yield reader, writer
        finally:
            writer.transport.abort()

    async def ask(self, request: bytes, *, client: str = "127.0.0.1") -> Answer:
        async with self.connection(client) as (reader, writer):
            writer.write(request)
            return await read_answer(reader)

    async def post(self, body: bytes) -> Answer:
        return await self.ask(self.webhook.request(body))

    async def stored(self) -> int:
        """Rows of the inbox."""
        connection = await asyncpg.connect(self._database_url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM relay.inbox"))
        finally:
            await connection.close()

    def logged(self) -> list[dict[str, str]]:
        """The access log of webhooks so far."""
        text = (self.nginx.logs / "relay.log").read_text()
        lines = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
        return [line for line in lines if line["path"].startswith("/webhooks/")]

    def head(self, *lines: str) -> bytes:
        first = f"POST {self.webhook.path} HTTP/1.1"
        return "\r\n".join([first, "host: hooks.example.com", *lines, "", ""]).encode()


@asynccontextmanager
async def fronting(database_url: str, directory: Path, **more: str) -> AsyncIterator[Front]:
    """The whole of it on the database; ``more`` are settings of the receivers."""
    main = {"RELAY_DATABASE_URL": database_url, "RELAY_ENCRYPTION_KEYS": new_key()}
    settings = environment(**main, **more)
    made = await create_source("shop", "--signing-secret", SECRET, environment=settings)
    webhook = Webhook(f"/webhooks/{made['id']}?api_key={made['api_key']}", SECRET)
    receivers: list[Serving] = []
    nginx: Nginx | None = None
    try:
        receivers += [Serving("receiver", settings, directory / f"{n}.log") for n in range(2)]
        for receiver in receivers:
            await receiver.ready()
        nginx = Nginx(directory / "nginx", [receiver.port for receiver in receivers])
        front = Front(nginx, receivers, webhook, database_url)
        await eventually(lambda: _listens(front))
        yield front
        # Whatever the tests did: the key is in none of the logs.
        assert made["api_key"] not in nginx.everything_written()
    finally:
        if nginx is not None:
            nginx.stop()
        for receiver in receivers:
            await receiver.kill()


@pytest.fixture(scope="module")
async def front(
    postgres: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Front]:
    """For all tests that leave it as it is."""
    database_url = await postgres.create()
    async with fronting(database_url, tmp_path_factory.mktemp("front")) as found:
        yield found
    await postgres.drop(database_url)


@pytest.fixture
async def own_front(database_url: str, tmp_path: Path) -> AsyncIterator[Front]:
    """For a test that breaks something."""
    async with fronting(database_url, tmp_path) as found:
        yield found


async def _listens(front: Front) -> bool:
    assert front.nginx.exit_status is None, front.nginx.everything_written()
    return (await get(front.nginx.port, "/")).status != 0


def event(number: int, padding: int = 0) -> bytes:
    """An event whose body is longer by ``padding`` bytes of white space."""
    return samples.sample("customer.updated", seed=number).body + b" " * padding


async def test_webhooks_pass_and_are_logged_without_their_key(front: Front) -> None:
    body = event(1)
    rows, lines = await front.stored(), len(front.logged())

    first = await front.post(body)
    again = await front.post(body)

    assert (first.status, first.json) == (200, {"received": True})
    assert (again.status, again.json) == (200, {"received": True, "duplicate": True})
    assert await front.stored() == rows + 1
    await eventually(lambda: len(front.logged()) == lines + 2)
    for line in front.logged()[lines:]:
        assert line["method"] == "POST"
        assert line["path"] == front.webhook.path.partition("?")[0]
        assert line["status"] == line["upstream_status"] == "200"


async def test_a_body_is_never_written_to_the_disk(front: Front) -> None:
    rows = await front.stored()
    front.nginx.forbid_files()
    repeatable, streamed = event(2, padding=980_000), event(3, padding=8_000_000)

    answers = [await front.post(repeatable), await front.post(streamed)]

    assert [answer.status for answer in answers] == [200, 200]
    assert await front.stored() == rows + 2


async def test_the_largest_body_passes_and_a_larger_one_does_not(front: Front) -> None:
    rows = await front.stored()
    largest = event(4, padding=LIMIT - len(event(4)))

    accepted = await front.post(largest)
    declared = await front.ask(front.head(f"content-length: {LIMIT + 1}"))
    async with front.connection() as (reader, writer):
        writer.write(front.head("transfer-encoding: chunked"))
        sending = asyncio.create_task(_send_without_end(writer))
        chunked = await read_answer(reader)
        sending.cancel()

    assert (accepted.status, declared.status, chunked.status) == (200, 413, 413)
    assert await front.stored() == rows + 1


async def _send_without_end(writer: asyncio.StreamWriter) -> None:
    piece = b"%x\r\n%b\r\n" % (2**20, b" " * 2**20)
    with suppress(ConnectionError):  # answered, and hung up
        while True:
            writer.write(piece)
            await writer.drain()


async def test_a_stranger_is_refused_before_a_large_body(front: Front) -> None:
    path = front.webhook.path.partition("?")[0]
    head = f"POST {path}?api_key=wrong HTTP/1.1\r\nhost: hooks.example.com\r\n"

    answer = await front.ask(f"{head}content-length: 9000000\r\n\r\n".encode())

    assert answer.status == 401


@pytest.mark.parametrize("size", [70_000, 140_000])
async def test_headers_above_the_limit_are_431(front: Front, size: int) -> None:
    # In lines of 30,000 bytes, and then in a single one.
    lines = [f"x-{n}: " + "v" * 29_990 for n in range(size // 30_000 + 1)]

    several = await front.ask(front.head(*lines, "content-length: 0"))
    single = await front.ask(front.head("x: " + "v" * size, "content-length: 0"))
    line = await front.ask(b"POST /webhooks/" + b"s" * size + b" HTTP/1.1\r\nhost: a\r\n\r\n")

    for answer in (several, single, line):
        assert (answer.status, answer.json) == (431, {"error": "headers_too_large"})


async def test_headers_within_the_limit_pass(front: Front) -> None:
    body = event(5)
    request = front.webhook.request(body)
    padded = request.replace(b"\r\n\r\n", b"\r\nx: " + b"v" * 60_000 + b"\r\n\r\n", 1)

    assert (await front.ask(padded)).status == 200


async def test_nothing_but_webhooks_is_reachable(front: Front) -> None:
    paths = ("/", "/metrics", "/readyz", "/livez", "/api/sources", "/webhooks/../metrics")
    for path in paths:
        request = f"GET {path} HTTP/1.1\r\nhost: hooks.example.com\r\n\r\n"
        assert (await front.ask(request.encode())).status == 404, path


async def test_http2_reaches_relay_too(front: Front, tmp_path: Path) -> None:
    curl = program("curl", source="Debian: curl")
    body = tmp_path / "body"
    body.write_bytes(event(6))
    signature = sign(event(6), SECRET)

    said = run(
        *(curl, "--silent", "--http2", "--cacert", front.nginx.logs.parent / "fullchain.pem"),
        *("--header", f"stripe-signature: {signature}", "--data-binary", f"@{body}"),
        *("--write-out", " %{http_version} %{http_code}"),
        f"https://127.0.0.1:{front.nginx.port}{front.webhook.path}",
    )

    assert said == '{"received":true} 2 200'


async def test_old_tls_is_refused_and_http2_offered(front: Front) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=None, cafile=front.nginx.logs.parent / "fullchain.pem")
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", front.nginx.port, ssl=old)

    front.nginx.tls.set_alpn_protocols(["h2", "http/1.1"])
    async with front.connection() as (_, writer):
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


async def test_no_request_fails_when_a_receiver_is_killed(own_front: Front) -> None:
    """What was on its way to it goes to the other one, and is stored once."""
    bodies = [event(number) for number in range(600)]

    answers = await _under_load(own_front, bodies, 200, own_front.receivers[0].kill())

    assert {answer.status for answer in answers} == {200}
    assert await own_front.stored() == len(bodies)

    # And when the other one is gone too, it is told without the key.
    await own_front.receivers[1].kill()
    lines = len(own_front.logged())
    small = await own_front.post(event(1000))
    large = await own_front.post(event(1001, padding=2_000_000))

    assert (small.status, large.status) == (502, 502)
    await eventually(lambda: len(own_front.logged()) == lines + 2)
    assert {line["status"] for line in own_front.logged()[lines:]} == {"502"}
    assert all(line["upstream"] for line in own_front.logged()[lines:])


async def test_no_request_fails_when_a_receiver_is_drained(own_front: Front) -> None:
    bodies = [event(number) for number in range(600)]

    answers = await _under_load(own_front, bodies, 200, own_front.receivers[0].stop())

    assert {answer.status for answer in answers} == {200}
    assert own_front.receivers[0].exit_status == 0
    assert await own_front.stored() == len(bodies)


async def _under_load(
    front: Front, bodies: list[bytes], at: int, disturbance: Coroutine[None, None, object]
) -> list[Answer]:
    """The answers to all bodies; the disturbance begins when so many of them are there."""
    answers: list[Answer] = []
    begin = asyncio.Event()
    waiting = iter(bodies)

    async def work() -> None:
        async with front.connection() as (reader, writer):
            for body in waiting:
                writer.write(front.webhook.request(body))
                answers.append(await read_answer(reader))
                if len(answers) >= at:
                    begin.set()

    async def disturb() -> None:
        await begin.wait()
        await disturbance

    async with asyncio.TaskGroup() as group:
        group.create_task(disturb())
        for _ in range(16):
            group.create_task(work())
    assert len(answers) == len(bodies)
    return answers


async def test_what_a_client_claims_to_be_is_overwritten(tmp_path: Path) -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        heads.append(head)
        # Whoever closes before all was read takes the answer back.
        await reader.readexactly(int(head.lower().partition("content-length: ")[2].split()[0]))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        nginx = Nginx(tmp_path / "nginx", [port, port])
        try:
            front = Front(nginx, [], Webhook("/webhooks/src_1?api_key=k", SECRET), "")
            await eventually(lambda: _listens(front))
            claims = ["x-forwarded-for: 54.187.174.169", "forwarded: for=54.187.174.169"]
            for size in (0, 2_000_000):
                request = front.head(*claims, "x-forwarded-proto: http", f"content-length: {size}")
                assert (await front.ask(request + b" " * size)).status == 200
        finally:
            nginx.stop()

    assert len(heads) == 2
    for head in heads:
        lines = [line.lower() for line in head.split("\r\n")]
        assert lines[0] == "post /webhooks/src_1?api_key=k http/1.1"
        assert [line for line in lines if "forwarded" in line] == [
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: https",
        ]


STRIPE, STRANGER = "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
async def strict_front(
    postgres: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Front]:
    """Receivers that have little patience, and take events from one address only."""
    settings = {
        "RELAY_BODY_TIMEOUT_SECONDS": "2",
        "RELAY_STRIPE_SOURCE_ADDRESSES": STRIPE,
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    database_url = await postgres.create()
    async with fronting(database_url, tmp_path_factory.mktemp("strict"), **settings) as found:
        yield found
    await postgres.drop(database_url)


async def test_relay_checks_the_address_that_nginx_saw(strict_front: Front) -> None:
    genuine = strict_front.webhook.request(event(1))
    claiming = genuine.replace(b"\r\n", f"\r\nx-forwarded-for: {STRIPE}\r\n".encode(), 1)

    assert (await strict_front.ask(genuine, client=STRIPE)).status == 200
    assert (await strict_front.ask(genuine, client=STRANGER)).status == 403
    assert (await strict_front.ask(claiming, client=STRANGER)).status == 403


async def test_a_large_body_is_under_the_clock_of_relay(strict_front: Front) -> None:
    request = strict_front.head("content-length: 2000000") + b" " * 500_000

    answer = await strict_front.ask(request, client=STRIPE)

    assert (answer.status, answer.json) == (408, {"error": "body_timeout"})
