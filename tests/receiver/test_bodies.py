"""Large bodies: byte-exact, at the limit, many at once, in bounded memory."""

from __future__ import annotations

import hashlib
import random
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from relay.receiver.budget import REQUEST_BYTES, Budget, Lease
from tests.receiver.client import Client
from tests.receiver.serving import Serving, SourceUnderTest, event, request

MIB = 2**20
LIMIT = 50 * MIB


def large_event(event_id: str, size: int) -> bytes:
    """A valid event of exactly `size` bytes that does not compress well."""
    frame = event(event_id, filler="")
    noise = random.Random(event_id).randbytes((size - len(frame)) // 2 + 1).hex()
    return frame.replace(b'"filler":""', b'"filler":"%s"' % noise[: size - len(frame)].encode())


def chunked(source: SourceUnderTest, body: bytes, chunk: int) -> bytes:
    head = request(
        source,
        b"",
        "content-length: ",
        "transfer-encoding: chunked",
        f"stripe-signature: {source.sign(body)}",
    )
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


STORED = "SELECT event_id, octet_length(body) AS size, sha256(body) AS sha256 FROM relay.inbox"


def test_50_mib_arrive_byte_for_byte(serving: Serving, source: SourceUnderTest) -> None:
    plain, coded = large_event("evt_plain", LIMIT), large_event("evt_coded", LIMIT)
    assert serving.post(source, plain).json == {"received": True}
    with Client(serving.port) as client:
        client.send(chunked(source, coded, 100_000))
        assert client.read_answer().json == {"received": True}
    rows = {row["event_id"]: row for row in serving.fetch(STORED)}
    for event_id, body in (("evt_plain", plain), ("evt_coded", coded)):
        assert rows[event_id]["size"] == LIMIT
        assert rows[event_id]["sha256"] == hashlib.sha256(body).digest()


def test_a_byte_above_the_limit_is_refused_however_it_comes(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(max_body_bytes=100_000)
    source = serving.add_source()
    for number, chunk in enumerate([0, 1, 1000, 100_000, 10**6]):
        for size, status in ((100_000, 200), (100_001, 413)):
            body = large_event(f"evt_{number}", size)
            with Client(serving.port) as client:
                client.send(chunked(source, body, chunk) if chunk else request(source, body))
                answer = client.read_answer()
                assert (answer.status, answer.closes) == (status, status == 413)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_small_chunks_give_the_body(serving: Serving, source: SourceUnderTest, chunk: int) -> None:
    body = large_event("evt_1", 20_000)
    with Client(serving.port) as client:
        client.send(chunked(source, body, chunk))
        assert client.read_answer().json == {"received": True}
    assert serving.fetch(STORED)[0]["sha256"] == hashlib.sha256(body).digest()


def test_uploads_beyond_the_budget_are_shed_and_small_events_pass(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(max_body_bytes=10 * MIB, bytes_in_flight=24 * MIB)
    source = serving.add_source()
    with Client(serving.port) as first, Client(serving.port) as second:
        # The budget has room for one of them: three quarters of it are for large bodies.
        first.send(request(source, bytes(10 * MIB))[: 9 * MIB])
        serving.wait_until(lambda: serving.receiver.budget.in_flight > 10 * MIB)
        second.send(request(source, bytes(10 * MIB)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        answer = second.read_answer()
        assert (answer.status, answer.error) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.closes
        assert serving.post(source, event("evt_small")).status == 200
    serving.wait_until(lambda: serving.receiver.budget.in_flight == 0)
    assert serving.post(source, large_event("evt_large", 10 * MIB)).status == 200


def test_chunks_without_a_declared_length_are_counted_as_they_come(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(max_body_bytes=10 * MIB, bytes_in_flight=MIB)
    source = serving.add_source()
    with Client(serving.port) as first, Client(serving.port) as second:
        first.send(chunked(source, bytes(9 * MIB), 9 * MIB)[:-10])
        serving.wait_until(lambda: serving.receiver.budget.in_flight > 9 * MIB)
        second.send(chunked(source, bytes(9 * MIB), 100_000)[: 3 * MIB])
        assert second.read_answer().status == 503


def test_200_uploads_of_49_mb_stay_within_the_budget(
    serving: Serving, source: SourceUnderTest
) -> None:
    """All at once, each pushing its whole body; memory is this process's, senders included."""
    body = large_event("evt_1", 49_000_000)
    raw = request(source, body)
    before = peak_memory()

    def upload(_: int) -> int:
        with Client(serving.port) as client:
            try:
                client.send(raw)
            except OSError:
                return 0  # cut off while it was still sending
            return client.read_answer().status

    with ThreadPoolExecutor(200) as threads:
        statuses = list(threads.map(upload, range(200)))
    assert set(statuses) <= {0, 200, 503}
    assert 200 in statuses
    # The budget, and what two statements of this size take on their way through the driver.
    assert peak_memory() - before < 268_435_456 + 6 * 49_000_000
    assert len(serving.fetch(STORED)) == 1


def peak_memory() -> int:
    """Bytes of resident memory at the worst moment so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_the_budget_gives_back_what_it_lends() -> None:
    budget = Budget(1000 * REQUEST_BYTES, 100_000)
    leases = [Lease(budget) for _ in range(1000)]
    assert [lease.cover(0) for lease in leases] == [True] * 1000
    assert not Lease(budget).cover(0)
    leases[0].release()
    leases[0].release()
    late = Lease(budget)
    assert late.cover(0)
    assert not late.cover(1)
    for lease in [*leases, late]:
        lease.release()
    assert budget.in_flight == 0


def test_the_largest_body_fits_into_the_smallest_budget() -> None:
    budget = Budget(1, LIMIT)
    large, small = Lease(budget), Lease(budget)
    assert large.cover(LIMIT)
    assert small.cover(3000)
    assert not Lease(budget).cover(LIMIT)
