"""The table of the HTTP contract: each check, its answer, and what is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.receiver.client import Client, exchange
from tests.receiver.serving import Serving, SourceUnderTest, event, request

ROWS = "SELECT id, event_id, body, body_sha256, signature_header FROM relay.inbox ORDER BY id"


def test_a_signed_event_is_stored_as_it_came(serving: Serving, source: SourceUnderTest) -> None:
    body = (
        b' {"data": {"object": {"id": "cus_1", "n": 1.10, "n": 1e2}},\n "type":"customer.updated",'
        b'"id" : "evt_1", "created":1700000000, "account": "acct_1", "livemode":true} '
    )
    answer = serving.post(source, body)
    assert (answer.status, answer.json) == (200, {"received": True})
    assert not answer.closes
    [row] = serving.fetch("SELECT * FROM relay.inbox")
    assert row["body"] == body
    assert row["body_sha256"] == hashlib.sha256(body).digest()
    assert row["event_id"] == "evt_1"
    assert row["event_type"] == "customer.updated"
    assert row["object_id"] == "cus_1"
    assert row["account"] == "acct_1"
    assert row["livemode"] is True
    assert row["origin"] == "webhook"
    assert row["event_created"].timestamp() == 1_700_000_000
    assert row["signature_header"].startswith("t=")
    assert len(serving.fetch("SELECT * FROM relay.queue")) == 1


def test_the_same_id_again_adds_nothing(serving: Serving, source: SourceUnderTest) -> None:
    assert serving.post(source, event("evt_1")).json == {"received": True}
    again = serving.post(source, event("evt_1", pending_webhooks=2))
    assert (again.status, again.json) == (200, {"received": True, "duplicate": True})
    assert len(serving.fetch(ROWS)) == 1


def test_duplicates_at_the_same_time_are_stored_once(
    serving: Serving, source: SourceUnderTest
) -> None:
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda _: serving.post(source, event("evt_1")), range(64)))
    assert {answer.status for answer in answers} == {200}
    assert [answer.json for answer in answers].count({"received": True}) == 1
    assert len(serving.fetch(ROWS)) == 1


def test_two_sources_do_not_share_ids(serving: Serving, source: SourceUnderTest) -> None:
    other = serving.add_source("other")
    assert serving.post(source, event("evt_1")).json == {"received": True}
    assert serving.post(other, event("evt_1")).json == {"received": True}


# ---- who may post


def test_every_way_to_be_unauthorized_gets_one_answer(
    serving: Serving, source: SourceUnderTest
) -> None:
    other = serving.add_source("other")
    path, key = f"/webhooks/{source.public_id}", source.key
    targets = [
        f"/webhooks/src_unknown?api_key={key}",
        f"/webhooks/%00%ff?api_key={key}",
        path,
        f"{path}?",
        f"{path}?api_key",
        f"{path}?api_key=",
        f"{path}?api_key={key}x",
        f"{path}?api_key={key[:-1]}",
        f"{path}?api_key={key.upper()}",
        f"{path}?api_key={other.key}",
        f"{path}?api_key=%ff%00",
        f"{path}?api_key=%",
        f"{path}?API_KEY={key}",
        f"{path}?api_key={key}&api_key={key}",
        f"{path}?api_key=wrong&api_key={key}",
        f"{path}?a={key}",
        f"{path}?xapi_key={key}",
        f"{path}?api_key={'k' * 60_000}",
        f"{path.upper()}?api_key={key}".replace("/WEBHOOKS", "/webhooks"),
    ]
    answers = [exchange(serving.port, request(source, event("e"), target=t)) for t in targets]
    assert {answer.status for answer in answers} == {401}
    assert {answer.body for answer in answers} == {b'{"error":"unauthorized"}'}
    assert all(answer.closes for answer in answers)
    assert serving.fetch(ROWS) == []


def test_a_key_may_be_percent_encoded_and_stand_anywhere(
    serving: Serving, source: SourceUnderTest
) -> None:
    encoded = "".join(f"%{ord(character):02x}" for character in source.key)
    path = f"/webhooks/{source.public_id}"
    for number, target in enumerate(
        [
            f"{path}?a=1&api_key={source.key}&b",
            f"{path}?&&api_key={encoded}",
            f"http://h{path}?api_key={source.key}",
        ]
    ):
        answer = exchange(serving.port, request(source, event(f"evt_{number}"), target=target))
        assert answer.status == 200


def test_the_key_is_checked_before_a_byte_of_the_body_is_read(serving: Serving) -> None:
    with Client(serving.port) as client:
        client.send(b"POST /webhooks/src_x?api_key=k HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")
        assert client.read_answer().status == 401
        assert client.is_closed()


def test_a_wrong_key_comes_before_every_later_check(
    serving: Serving, source: SourceUnderTest
) -> None:
    for header in ("content-length: 99999999999", "content-encoding: gzip", "stripe-signature: x"):
        answer = exchange(serving.port, request(source, b"", header, target=source.target + "x"))
        assert answer.status == 401


def test_a_rotated_key_and_a_deleted_source(serving: Serving, source: SourceUnderTest) -> None:
    serving.fetch("UPDATE relay.api_key SET expires_at = now()")
    serving.run(serving.receiver.run_once())
    assert serving.post(source, event("evt_1")).status == 401
    serving.fetch("UPDATE relay.api_key SET expires_at = NULL")
    serving.run(serving.receiver.run_once())
    assert serving.post(source, event("evt_1")).status == 200
    serving.fetch("UPDATE relay.source SET deleted_at = now()")
    serving.run(serving.receiver.run_once())
    assert serving.post(source, event("evt_2")).status == 401


# ---- what they may post


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "GZIP", "identity, gzip", "x"])
def test_coded_bodies_are_refused(serving: Serving, source: SourceUnderTest, encoding: str) -> None:
    answer = serving.post(source, event("evt_1"), f"content-encoding: {encoding}")
    assert (answer.status, answer.error) == (415, "content_encoding")
    assert answer.closes


def test_identity_is_no_coding(serving: Serving, source: SourceUnderTest) -> None:
    assert serving.post(source, event("evt_1"), "content-encoding: Identity").status == 200


def test_signatures(serving: Serving, source: SourceUnderTest) -> None:
    body = event("evt_1")
    good = source.sign(body)
    cases = [
        ("", "signature_missing"),
        ("garbage", "signature_malformed"),
        ("t=1,v1=", "signature_wrong"),
        (good.replace("v1=", "v1=0"), "signature_wrong"),
        (source.sign(event("evt_2")), "signature_wrong"),
        (source.sign(body, age=301), "signature_expired"),
        (source.sign(body, age=-330), "signature_expired"),
        ("\xff\xfe", "signature_malformed"),
        ("v1=" * 5000, "signature_malformed"),
    ]
    for header, code in cases:
        answer = serving.post(source, body, f"stripe-signature: {header}")
        assert (answer.status, answer.json) == (400, {"error": code})
        assert not answer.closes
    assert serving.fetch(ROWS) == []
    assert serving.post(source, body, f"stripe-signature: {good}").status == 200


def test_the_clock_of_the_database_decides_what_has_expired(
    serving: Serving, source: SourceUnderTest
) -> None:
    """As if our clock went ten minutes ahead of PostgreSQL's."""
    ahead = source.sign(event("evt_1"), age=-600)
    assert serving.post(source, event("evt_1"), f"stripe-signature: {ahead}").status == 400
    sources = serving.receiver._sources
    admission = sources._admission
    sources._admission = type(admission)(admission.sources, admission.clock_offset + 600)
    assert serving.post(source, event("evt_1"), f"stripe-signature: {ahead}").status == 200


def test_an_insecure_source_takes_what_is_not_signed(serving: Serving) -> None:
    source = serving.add_source("open", insecure=True)
    assert serving.post(source, event("evt_1"), "stripe-signature: ").status == 200
    assert serving.post(source, event("evt_2"), "stripe-signature: nonsense").status == 200


REFUSED = "SELECT error_code, error, refused_body, inbox_id FROM relay.dead_letter ORDER BY id"


def test_a_sample_of_refused_requests_is_kept(serving: Serving, source: SourceUnderTest) -> None:
    body = event("evt_1")
    for _ in range(30):
        assert serving.post(source, body, "stripe-signature: ").status == 400
    serving.post(source, b"\0\xff" * 100_000, "stripe-signature: t=1,v1=")
    serving.run(serving.receiver._refused.flush())
    rows = serving.fetch(REFUSED)
    assert [row["error_code"] for row in rows] == ["signature_missing"] * 10 + ["signature_wrong"]
    assert rows[0]["refused_body"] == body
    assert rows[-1]["refused_body"] == b"\0\xff" * 32_768
    assert all(row["inbox_id"] is None for row in rows)
    assert serving.receiver.counters.refused_dropped == 20


def test_without_a_dlq_no_sample_is_kept(serving: Serving) -> None:
    source = serving.add_source("no dlq", dlq=False)
    assert serving.post(source, event("evt_1"), "stripe-signature: ").status == 400
    serving.run(serving.receiver._refused.flush())
    assert serving.fetch(REFUSED) == []


UNUSABLE = {
    b"\xff": "not_utf8",
    b"\xef\xbb\xbf{}": "bom",
    b"": "invalid_json",
    b"{": "invalid_json",
    b"[" * 501 + b"]" * 501: "too_deep",
    b'{"object":"v2.core.event","id":"evt_1","type":"v1.customer.created"}': "thin_payload",
    b"{}": "missing_id",
    b'{"id":"evt_1"}': "missing_type",
    b'{"id":"evt_1","type":"a..b","data":{"object":{}}}': "invalid_type",
    b'{"id":"evt_1","type":"a.b"}': "missing_object",
    b'{"id":"evt_1","type":"a.b","data":{"object":{"id":7}}}': "invalid_object_id",
    b'{"id":"evt_\\u0000","type":"a.b","data":{"object":{}}}': "invalid_id",
}


@pytest.mark.parametrize("dlq", [True, False])
def test_genuine_but_unusable_is_kept_and_dead(serving: Serving, dlq: bool) -> None:
    source = serving.add_source("shop", dlq=dlq)
    for body, code in UNUSABLE.items():
        answer = serving.post(source, body)
        assert (answer.status, answer.json) == (200, {"received": True, "dead_letter": code})
        again = serving.post(source, body)
        assert (again.status, again.json) == (200, {"received": True, "duplicate": True})
    rows = serving.fetch(ROWS)
    assert [row["body"] for row in rows] == list(UNUSABLE)
    assert [row["event_id"] for row in rows] == [
        f"rejected:{hashlib.sha256(body).hexdigest()}" for body in UNUSABLE
    ]
    dead = serving.fetch("SELECT error_code, inbox_id FROM relay.dead_letter ORDER BY inbox_id")
    assert [row["error_code"] for row in dead] == list(UNUSABLE.values())
    assert [row["inbox_id"] for row in dead] == [row["id"] for row in rows]
    queued = serving.fetch("SELECT kind FROM relay.queue")
    assert [row["kind"] for row in queued] == ([1] * len(UNUSABLE) if dlq else [])


def test_an_unusable_event_does_not_stand_in_the_way_of_the_id_it_claims(
    serving: Serving, source: SourceUnderTest
) -> None:
    answer = serving.post(source, b'{"id":"evt_1","type":"a.b"}')
    assert answer.json == {"received": True, "dead_letter": "missing_object"}
    assert serving.post(source, event("evt_1")).json == {"received": True}


def test_what_postgresql_cannot_hold_never_fails_a_genuine_event(
    serving: Serving, source: SourceUnderTest
) -> None:
    odd = [
        {"type": "a.\0"},
        {"type": "a." + "b" * 5000},
        {"account": "acct_\0"},
        {"account": "x" * 5000},
        {"api_version": "\0"},
        {"api_version": "v" * 100_000},
        {"created": 10**30},
        {"created": -(10**12)},
        {"created": 1e300},
        {"created": "soon"},
        {"livemode": "yes"},
        {"data": {"object": {"id": "x" * 5000}}},
        {"data": {"object": {"id": "x", "object": "\0"}}},
        {"data": {"object": {"id": "x", "object": 7}}},
    ]
    for number, changes in enumerate(odd):
        answer = serving.post(source, event(f"evt_{number}", **changes))
        assert answer.status == 200, changes
    lone = event("evt_lone").replace(b'"cus_1"', b'"\\ud800"')
    assert serving.post(source, lone).status == 200
    header = source.sign(lone) + ",x=" + "".join(map(chr, range(128, 256)))
    assert serving.post(source, event("evt_h"), f"stripe-signature: {header}").status == 400
    assert len(serving.fetch(ROWS)) == len(odd) + 1


def test_what_postgresql_refuses_nevertheless_is_kept_without_what_was_read_from_it(
    serving: Serving, source: SourceUnderTest
) -> None:
    serving.fetch("ALTER TABLE relay.inbox ADD CHECK (object_id <> 'cus_impossible')")
    body = event("evt_1", data={"object": {"id": "cus_impossible"}})
    for _ in range(2):
        answer = serving.post(source, body)
        assert answer.status == 200
    assert answer.json == {"received": True, "duplicate": True}
    [row] = serving.fetch(ROWS)
    assert row["body"] == body
    assert row["event_id"] == f"rejected:{hashlib.sha256(body).hexdigest()}"
    [dead] = serving.fetch("SELECT * FROM relay.dead_letter")
    assert (dead["error_code"], dead["inbox_id"]) == ("unstorable", row["id"])


def test_odd_signature_headers_are_kept_as_they_came(
    serving: Serving, source: SourceUnderTest
) -> None:
    body = event("evt_1")
    header = source.sign(body) + ",v0=\x80\xff"
    assert serving.post(source, body, f"stripe-signature: {header}").status == 200
    [row] = serving.fetch(ROWS)
    assert row["signature_header"] == header


# ---- the rest of the port


def test_other_methods_and_paths(serving: Serving, source: SourceUnderTest) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = exchange(serving.port, f"{method} {source.target} HTTP/1.1\r\n\r\n".encode())
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"
    for path in ("/", "/webhooks", "/webhooks/", "/webhooks/a/b", "/nothing", "/%00", "//", "/../"):
        answer = exchange(
            serving.port, f"POST {path} HTTP/1.1\r\ncontent-length: 0\r\n\r\n".encode()
        )
        assert answer.status == 404, path
    answer = exchange(serving.port, b"DELETE /livez HTTP/1.1\r\n\r\n")
    assert answer.status == 405
    assert "GET" in answer.headers["allow"].upper()


def test_no_answer_tells_what_serves_it(serving: Serving, source: SourceUnderTest) -> None:
    for answer in (
        serving.post(source, event("evt_1")),
        exchange(serving.port, b"GET /livez HTTP/1.1\r\n\r\n"),
        exchange(serving.port, b"nonsense\r\n\r\n"),
    ):
        assert "server" not in answer.headers
        assert "date" in answer.headers


def test_an_unopenable_secret_stops_only_its_own_source(
    serve: Callable[..., Serving],
) -> None:
    first = serve()
    source = first.add_source("sealed with another key")
    second = serve()
    other = second.add_source("other")
    assert second.post(source, event("evt_1")).status == 503
    assert second.post(other, event("evt_1")).status == 200
