"""What an answer of Stripe means, case by case."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.stripe.answer import Answer, Delayed, ListedObject, Page, Refused, read_answer

DATE = {"date": "Wed, 26 Aug 2026 10:00:07 GMT", "request-id": "req_1"}
SECOND = 1787738407


def read(
    status: int = 200,
    body: bytes | dict[str, Any] = b"",
    *,
    created_field: str = "created",
    **headers: str,
) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_answer(
        status, DATE | given, raw, url="https://x/v1/y", seconds=0.25, created_field=created_field
    )


def error(message: str = "No.", **members: str) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "message": message, **members}}


def listed(*objects: str, has_more: str = "false") -> bytes:
    data = ", ".join(objects)
    return f'{{"object":"list","data":[{data}],"has_more":{has_more},"url":"/v1/y"}}'.encode()


def test_objects_are_kept_token_for_token() -> None:
    exact = (
        '{ "id" : "a_1",\n "created":7, "n":1.10, "e":1E+2, "big":123456789012345678901234567890,'
        ' "s":"\\u00e9\\/é", "twice":1, "twice":2 }'
    )
    page = read(body=listed(exact, '{"id":"a_2"}', has_more="true"))
    assert page == Page(
        objects=(
            ListedObject("a_1", 7, exact.encode()),
            ListedObject("a_2", None, b'{"id":"a_2"}'),
        ),
        has_more=True,
        date=SECOND,
        request_id="req_1",
        url="https://x/v1/y",
        size=len(listed(exact, '{"id":"a_2"}', has_more="true")),
        seconds=0.25,
    )


def test_an_empty_page_may_go_on() -> None:
    page = read(body=listed(has_more="true"))
    assert isinstance(page, Page)
    assert (page.objects, page.has_more) == ((), True)


def test_the_time_of_an_object_is_where_its_listing_says() -> None:
    page = read(body=listed('{"id":"ii_1","date":9}'), created_field="date")
    assert isinstance(page, Page)
    assert page.objects[0].created == 9


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>Sign in</html>", "not JSON"),
        (b"", "not JSON"),
        (listed('{"id":"a_1"}')[:-9], "not JSON"),
        (b'\xef\xbb\xbf{"object":"list","data":[],"has_more":false}', "not JSON"),
        (listed('{"id":"a_1","x":"\xff"}').replace("\xff".encode(), b"\xff"), "not UTF-8"),
        (listed('{"id":"a_\xff"}').replace("\xff".encode(), b"\xff"), "object 0 of the list"),
        (listed('{"id":"a_1","\xff":1}').replace("\xff".encode(), b"\xff"), "not UTF-8"),
        (listed().replace(b'"list"', b'"\xff"'), "not"),
        (b"[]", "not a list"),
        (b'{"object":"list","has_more":false}', "not a list"),
        (b'{"object":"list","data":[]}', "not a list"),
        (b'{"object":"search_result","data":[],"has_more":false}', "not a list"),
        (b'{"object":"list","data":{},"has_more":false}', "not a list"),
        (listed('{"id":"a_1"}', '{"created":1}'), "object 1 of the list"),
        (listed('{"id":null}'), "object 0 of the list"),
        (listed('{"id":7}'), "object 0 of the list"),
        (listed('{"id":""}'), "blank id"),
        (listed('{"id":"a_1","created":"today"}'), "object 0 of the list"),
        (listed('"a_1"'), "object 0 of the list"),
    ],
)
def test_what_is_no_list_is_unusable(body: bytes, told: str) -> None:
    answer = read(body=body)
    assert isinstance(answer, Delayed)
    assert answer.verdict == "unusable"
    assert told in answer.message
    assert answer.request_id == "req_1"


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Wed, 26 Aug 2026 10:00:07 -0000", "Wed, 99 Aug 2026 10:00:07 GMT"]
)
def test_without_stripes_clock_a_page_is_unusable(date: str) -> None:
    answer = read(body=listed(), date=date)
    assert isinstance(answer, Delayed)
    assert answer.verdict == "unusable"
    assert "Date" in answer.message


def test_a_page_without_the_date_header_is_unusable() -> None:
    answer = read_answer(200, {}, listed(), url="u", seconds=0)
    assert isinstance(answer, Delayed)
    assert "no Date header" in answer.message


REFUSALS = [
    (401, error("Invalid API Key provided: sk_test_****1234"), "wrong_key", "snapshot"),
    (401, b"", "wrong_key", "snapshot"),
    (403, error("The provided key does not have …"), "no_access", "resource"),
    (403, error("Gone.", code="account_invalid"), "wrong_account", "snapshot"),
    (404, error("Unrecognized request URL"), "not_found", "resource"),
    (404, b"<html>nginx</html>", "not_found", "resource"),
    (
        400,
        error("No such charge: 'ch_1'", code="resource_missing", param="starting_after"),
        "cursor_gone",
        "cursor",
    ),
    (
        404,
        error("No such charge: 'ch_1'", code="resource_missing", param="starting_after"),
        "cursor_gone",
        "cursor",
    ),
    (
        400,
        error("No such customer: 'cus_1'", code="resource_missing", param="customer"),
        "refused",
        "resource",
    ),
    (400, error("Received unknown parameter: x", param="x"), "refused", "resource"),
    (402, error("Request failed."), "refused", "resource"),
]


@pytest.mark.parametrize(("status", "body", "verdict", "scope"), REFUSALS)
def test_refusals_say_how_far_they_reach(
    status: int, body: bytes | dict[str, Any], verdict: str, scope: str
) -> None:
    answer = read(status, body)
    assert isinstance(answer, Refused)
    assert (answer.verdict, answer.scope) == (verdict, scope)
    assert answer.code == f"stripe_{verdict}"
    assert (answer.status, answer.request_id) == (status, "req_1")
    if isinstance(body, dict):
        assert answer.message == body["error"]["message"]
        assert answer.stripe_code == body["error"].get("code")
        assert answer.param == body["error"].get("param")
    else:
        assert f"HTTP {status}" in answer.message


DELAYS = [
    (429, error(code="rate_limit"), "rate_limited"),
    (429, b"", "rate_limited"),
    (429, error(code="lock_timeout"), "locked"),
    (409, error(), "conflict"),
    (408, b"", "server_error"),
    (500, error(), "server_error"),
    (502, b"<html>Bad gateway</html>", "server_error"),
    (503, b"", "server_error"),
    (302, b"", "unusable"),
    (204, b"", "unusable"),
]


@pytest.mark.parametrize(("status", "body", "verdict"), DELAYS)
def test_what_may_pass_is_a_delay(status: int, body: bytes | dict[str, Any], verdict: str) -> None:
    answer = read(status, body, retry_after="7")
    assert isinstance(answer, Delayed)
    assert answer.verdict == verdict
    assert answer.code == f"stripe_{verdict}"
    assert (answer.status, answer.request_id, answer.retry_after) == (status, "req_1", 7.0)


@pytest.mark.parametrize(("status", "body", "verdict"), DELAYS)
def test_stripe_may_forbid_to_try_again(
    status: int, body: bytes | dict[str, Any], verdict: str
) -> None:
    answer = read(status, body, stripe_should_retry="false")
    assert isinstance(answer, Refused)
    assert answer.verdict == "refused"


@pytest.mark.parametrize(("status", "body", "verdict", "scope"), REFUSALS)
def test_stripe_may_ask_to_try_again(
    status: int, body: bytes | dict[str, Any], verdict: str, scope: str
) -> None:
    answer = read(status, body, stripe_should_retry="true")
    assert isinstance(answer, Delayed)


def test_a_rate_limit_says_which() -> None:
    answer = read(429, error(), stripe_rate_limited_reason="endpoint-rate")
    assert isinstance(answer, Delayed)
    assert answer.limit_reason == "endpoint-rate"
    locked = read(429, error(code="lock_timeout"), stripe_rate_limited_reason="endpoint-rate")
    assert isinstance(locked, Delayed)
    assert locked.limit_reason is None


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "Wed, 26 Aug 2026 10:00:07 GMT", "²"])
def test_a_retry_after_that_is_no_number_counts_as_none(text: str) -> None:
    answer = read(429, error(), retry_after=text)
    assert isinstance(answer, Delayed)
    assert answer.retry_after is None


@pytest.mark.parametrize(
    "body",
    [b'{"error":"no"}', b'{"error":{"message":7}}', b'{"error":{}}', b"\xff", b"{}", b"null"],
)
def test_an_error_of_another_form_still_has_a_message(body: bytes) -> None:
    answer = read(400, body)
    assert isinstance(answer, Refused)
    assert answer.message == "HTTP 400 without an error message of the Stripe API"


def test_messages_are_fit_to_be_shown() -> None:
    answer = read(400, error("a\x1b[2Jb" + "x" * 5000))
    assert isinstance(answer, Refused)
    assert answer.message.startswith("a\\x1b[2Jb")
    assert len(answer.message) < 1100
    assert str(read(400, error("No."))) == "No. (HTTP 400, request req_1)"
    assert str(Delayed("timeout", "no answer")) == "no answer"
