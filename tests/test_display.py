"""What is shown holds no secret and cannot command the terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.display import printable, redact

SIGNATURE = "a1" * 32


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("POST /webhooks/src_1?api_key=KEY-1_x HTTP", "POST /webhooks/src_1?api_key=(hidden) HTTP"),
        ("/w?a=1&API_KEY=K&b=2", "/w?a=1&API_KEY=(hidden)&b=2"),
        ("url='http://h/?api_key=K'", "url='http://h/?api_key=(hidden)'"),
        ("next=%2Fw%3Fapi_key%3DK", "next=%2Fw%3Fapi_key%3D(hidden)"),
        (f"the key relay_{'k' * 43} is", "the key relay_(hidden) is"),
        ("secret whsec_abc/+=", "secret whsec_(hidden)"),
        ("sk_live_abc, rk_test_DEF", "sk_live_(hidden), rk_test_(hidden)"),
        ("sk_org_live_abc", "sk_org_live_(hidden)"),
        (f"t=12,v1={SIGNATURE},v0={SIGNATURE}", "t=12,v1=(hidden),v0=(hidden)"),
        ("postgresql://u:p%40w@h1,h2/d", "postgresql://u:(hidden)@h1,h2/d"),
        ("postgresql://u:p@w@h/d", "postgresql://u:(hidden)@h/d"),
        ("host=h password='a b' user=u", "host=h password=(hidden) user=u"),
        ("?sslpassword=x&y=1", "?sslpassword=(hidden)&y=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer (hidden)"),
        ("key AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= used", "key (hidden) used"),
    ],
)
def test_secrets_are_taken_out(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "evt_1 customer.created 12 ms",
        "postgresql://user@host:5432/name",
        "http://127.0.0.1:8080/webhooks/src_1",
        "signature_wrong: none of 2 signatures fits",
        "pk_live_abc",
        '{"a":"x://y"}',
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert redact(text) == text


def test_known_secrets_are_hidden_wherever_they_are() -> None:
    assert redact("<p4ssw0rd!>", ["p4ssw0rd!"]) == "<(hidden)>"
    assert redact("a b c", ["a"]) == "a b c", "a short one would be found by accident"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_is_to_be_kept_is_kept() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_unprintable_comes_through(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode("utf-8")
