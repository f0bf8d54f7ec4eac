"""While the database is away: an honest 503, and everything by itself when it is back."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from relay.dev.postgres import EmbeddedPostgres
from relay.receiver.commit import Committing
from relay.store.schema import migrate
from tests.receiver.client import SECONDS, Answer, Client, exchange
from tests.receiver.proxy import Proxy
from tests.receiver.serving import Serving, SourceUnderTest, event, request

STORED = "SELECT event_id FROM relay.inbox ORDER BY id"


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


def is_refusal(answer: Answer) -> bool:
    return (
        answer.status == 503
        and answer.error in ("unavailable", "overloaded")
        and int(answer.headers["retry-after"]) > 0
    )


def post_until(serving: Serving, source: SourceUnderTest, body: bytes, status: int) -> list[Answer]:
    """Posts again and again, as Stripe does, until the answer is what the test waits for."""
    answers: list[Answer] = []
    deadline = time.monotonic() + SECONDS
    while not answers or answers[-1].status != status:
        assert time.monotonic() < deadline, answers[-3:]
        answers.append(serving.post(source, body))
    return answers


def readiness(serving: Serving) -> Answer:
    return exchange(serving.port, b"GET /readyz HTTP/1.1\r\n\r\n")


def ready_when(serving: Serving, status: int) -> Answer:
    deadline = time.monotonic() + SECONDS
    while (answer := readiness(serving)).status != status:
        assert time.monotonic() < deadline, answer
    return answer


def test_postgresql_stopped_and_started(serve: Callable[..., Serving], tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    try:
        asyncio.run(migrate(server.dsn))
        serving = serve(database_url=server.dsn)
        source = serving.add_source()
        assert serving.post(source, event("evt_1")).status == 200
        ready_when(serving, 200)
        server.stop()
        for answer in [serving.post(source, event("evt_2")) for _ in range(5)]:
            assert is_refusal(answer)
        assert "database" in str(ready_when(serving, 503).json)
        assert exchange(serving.port, b"GET /livez HTTP/1.1\r\n\r\n").status == 200
        server.start()
        assert all(is_refusal(a) for a in post_until(serving, source, event("evt_2"), 200)[:-1])
        ready_when(serving, 200)
        assert [row["event_id"] for row in serving.fetch(STORED)] == ["evt_1", "evt_2"]
        serving.stop()
    finally:
        server.stop()


def test_a_receiver_starts_without_a_database(serve: Callable[..., Serving], proxy: Proxy) -> None:
    helper = serve()
    source = helper.add_source(insecure=True)
    proxy.cut()
    serving = serve(database_url=proxy.url)
    assert is_refusal(serving.post(source, event("evt_1")))
    # What only the database could tell is not answered with 401.
    unknown = request(source, event("evt_1"), target="/webhooks/src_x?api_key=y")
    assert is_refusal(exchange(serving.port, unknown))
    assert readiness(serving).status == 503
    proxy.mend()
    post_until(serving, source, event("evt_1"), 200)
    assert exchange(serving.port, unknown).status == 401
    ready_when(serving, 200)


def test_a_receiver_without_a_database_says_so_before_the_body(
    serve: Callable[..., Serving], proxy: Proxy
) -> None:
    serving = serve(database_url=proxy.url)
    proxy.cut()
    with Client(serving.port) as client:
        client.send(b"POST /webhooks/a?api_key=b HTTP/1.1\r\ncontent-length: 1000\r\n\r\n")
        assert is_refusal(client.read_answer())
        assert client.is_closed()


def test_connections_that_are_cut_and_mended(serve: Callable[..., Serving], proxy: Proxy) -> None:
    serving = serve(database_url=proxy.url)
    source = serving.add_source()
    for number in range(5):
        assert serving.post(source, event(f"evt_{number}")).status == 200
        proxy.cut()
        assert is_refusal(serving.post(source, event(f"evt_x{number}")))
        proxy.mend()
        post_until(serving, source, event(f"evt_x{number}"), 200)


def test_a_black_hole_is_left_after_a_while(serve: Callable[..., Serving], proxy: Proxy) -> None:
    """The answer is lost, the row perhaps not: the next attempt finds out, and nothing is twice."""
    serving = serve(database_url=proxy.url, committing=Committing(transaction_seconds=0.3))
    source = serving.add_source()
    assert serving.post(source, event("evt_0")).status == 200
    proxy.freeze()
    assert is_refusal(serving.post(source, event("evt_1")))
    proxy.mend()
    post_until(serving, source, event("evt_1"), 200)
    ids = [row["event_id"] for row in serving.fetch(STORED)]
    assert sorted(ids) == ["evt_0", "evt_1"]


def test_a_schema_that_is_missing_is_an_outage(
    serve: Callable[..., Serving], empty_database_url: str
) -> None:
    serving = serve(database_url=empty_database_url)
    raw = b"POST /webhooks/a?api_key=b HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
    assert is_refusal(exchange(serving.port, raw))
    assert "relay migrate" in str(readiness(serving).json)


def test_one_connection_less_fails_nobody(serve: Callable[..., Serving], proxy: Proxy) -> None:
    """Out of connections: what the receiver has is enough."""
    serving = serve(database_url=proxy.url)
    source = serving.add_source()
    assert serving.post(source, event("evt_first")).status == 200
    proxy.refuse_new()
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda n: serving.post(source, event(f"evt_{n}")), range(500)))
    assert {answer.status for answer in answers} == {200}


class Gate:
    """Holds every COMMIT that stores something until it is opened."""

    def __init__(self, serving: Serving, direct_url: str) -> None:
        self._serving = serving
        self._pg: asyncpg.Connection = serving.run(asyncpg.connect(direct_url))
        for statement in (
            "CREATE FUNCTION relay.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " PERFORM pg_advisory_xact_lock_shared(7); RETURN NULL; END $$",
            "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON relay.event_key DEFERRABLE"
            " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION relay.wait()",
            "SELECT pg_advisory_lock(7)",
        ):
            serving.run(self._pg.execute(statement))

    def wait_for(self, backends: int) -> None:
        deadline = time.monotonic() + SECONDS
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
        while self._serving.run(self._pg.fetchval(waiting)) < backends:
            assert time.monotonic() < deadline

    def open(self) -> None:
        self._serving.run(self._pg.close())


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_in_the_middle_of_the_commit_is_still_stored(
    serving: Serving, source: SourceUnderTest, direct_url: str, reset: bool
) -> None:
    gate = Gate(serving, direct_url)
    counters = serving.receiver.counters
    client = Client(serving.port)
    client.send(request(source, event("evt_1")))
    gate.wait_for(1)
    if reset:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    if reset:
        serving.wait_until(lambda: counters.connections == 0)
    gate.open()
    serving.wait_until(lambda: counters.commit_rows.sum == 1)
    assert [row["event_id"] for row in serving.fetch(STORED)] == ["evt_1"]
    assert counters.batches_failed == 0


def test_what_comes_while_an_answer_is_awaited_is_answered_after_it(
    serving: Serving, source: SourceUnderTest, direct_url: str
) -> None:
    gate = Gate(serving, direct_url)
    with Client(serving.port) as client:
        client.send(request(source, event("evt_1")))
        gate.wait_for(1)
        client.send(request(source, event("evt_2"))[:50])
        client.send(request(source, event("evt_2"))[50:])
        client.send(b"garbage\r\n\r\n")
        gate.open()
        assert [client.read_answer().status for _ in range(3)] == [200, 200, 400]
        assert client.is_closed()
    assert [row["event_id"] for row in serving.fetch(STORED)] == ["evt_1", "evt_2"]
