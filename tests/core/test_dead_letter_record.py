"""The copy of a dead letter on the DLQ topic."""

from __future__ import annotations

import msgspec
import pytest

from relay.core.record import Record
from relay.core.transform import MAX_HEADER_TEXT, StoredEvent, dead_letter_record
from tests.core.builders import source

REFUSED = StoredEvent(
    inbox_id=7,
    event_id="rejected:" + "0" * 64,
    event_type=None,
    object_type=None,
    object_id=None,
    account=None,
    livemode=None,
    api_version=None,
    created=None,
    origin="webhook",
    body=b"\xff{",
)
EVENT = StoredEvent(
    inbox_id=8,
    event_id="evt_1",
    event_type="a/b.created",
    object_type="a",
    object_id="a_1",
    account="acct_1",
    livemode=False,
    api_version=None,
    created=1,
    origin="webhook",
    body='{ "id": "evt_1", "name": "Grüße 😀" }'.encode(),
)


def test_a_dead_event_in_full() -> None:
    made = dead_letter_record(
        EVENT, source(topic_prefix="eu."), "invalid_topic", "Kafka refuses 'a/b'", 1, None
    )
    assert made == Record(
        topic="eu.dead_letter",
        key=b'{"id":"evt_1"}',
        value=EVENT.body,
        headers=(
            ("__error_code", b"invalid_topic"),
            ("__error", b"Kafka refuses 'a/b'"),
            ("__attempts", b"1"),
            ("_source", b"main"),
            ("_event_id", b"evt_1"),
            ("_event_type", b"a/b.created"),
        ),
        op="",
    )


def test_a_refused_body_has_no_type() -> None:
    made = dead_letter_record(REFUSED, source(), "not_utf8", "the body is not UTF-8", 0, 100)
    assert made.key == b'{"id":"rejected:' + b"0" * 64 + b'"}'
    assert made.value == b"\xff{"
    assert [name for name, _ in made.headers] == [
        "__error_code",
        "__error",
        "__attempts",
        "_source",
        "_event_id",
    ]


def test_the_topic_of_the_source() -> None:
    config = source(dlq_topic="graveyard")
    assert dead_letter_record(EVENT, config, "x", "y", 0, None).topic == "graveyard"


@pytest.mark.parametrize("limit", range(len(EVENT.body) + 2))
def test_a_body_is_cut_to_fit_between_characters(limit: int) -> None:
    made = dead_letter_record(EVENT, source(), "too_large", "too large", 0, limit)
    assert made.value is not None
    assert len(made.value) <= limit
    assert EVENT.body.startswith(made.value)
    made.value.decode("utf-8")
    assert limit - len(made.value) < 4 or made.value == EVENT.body
    is_cut = made.value != EVENT.body
    assert dict(made.headers).get("__truncated") == (b"true" if is_cut else None)


@pytest.mark.parametrize("limit", [0, 1, 5, 9])
def test_bytes_that_are_no_text_are_cut_where_the_limit_is(limit: int) -> None:
    event = msgspec.structs.replace(REFUSED, body=b"\x80" * 10)
    assert dead_letter_record(event, source(), "x", "y", 0, limit).value == b"\x80" * limit


def test_an_endless_error_is_bounded() -> None:
    made = dead_letter_record(EVENT, source(), "x", "ä" * 5000, 0, None)
    assert dict(made.headers)["__error"].decode() == "ä" * (MAX_HEADER_TEXT - 1) + "…"
    exact = dead_letter_record(EVENT, source(), "x", "ä" * MAX_HEADER_TEXT, 0, None)
    assert dict(exact.headers)["__error"].decode() == "ä" * MAX_HEADER_TEXT


def test_an_error_that_quotes_a_lone_surrogate() -> None:
    made = dead_letter_record(EVENT, source(), "x", "topic '\ud800'", 0, None)
    assert dict(made.headers)["__error"] == b"topic '\\ud800'"
