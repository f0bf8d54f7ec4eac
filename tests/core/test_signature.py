"""The signature check, case by case and against Stripe's own package."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from unittest import mock

import pytest
import stripe
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from relay.core.errors import ConfigError, SignatureError
from relay.core.signature import accept_unsigned, check_secret, sign, verify

NOW = 1_780_000_000
SECRET = "whsec_test"
BODY = b'{"id":"evt_1"}'


def v1(body: bytes = BODY, secret: str = SECRET, t: str = str(NOW)) -> str:
    return hmac.new(secret.encode(), t.encode() + b"." + body, hashlib.sha256).hexdigest()


def verdict(
    header: str | None,
    body: bytes = BODY,
    secrets: Sequence[str | bytes] = (SECRET,),
    now: float = NOW,
    tolerance: int = 300,
) -> str:
    try:
        assert verify(body, header, secrets, now, tolerance) is body
    except SignatureError as error:
        return error.code
    return "ok"


def test_a_vector_made_by_openssl() -> None:
    # printf '1780000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test
    digest = "a6cfe2114f40ec5193d0304c1e682c55fdabf04be55f4190b0c065017cb094af"
    assert verdict(f"t={NOW},v1={digest}") == "ok"


OTHER = "0" * 64
CASES = {
    "right": (f"t={NOW},v1={v1()}", "ok"),
    "v1 first": (f"v1={v1()},t={NOW}", "ok"),
    "with v0": (f"t={NOW},v1={v1()},v0={OTHER}", "ok"),
    "v0 before": (f"t={NOW},v0={OTHER},v1={v1()}", "ok"),
    "right v1 last of many": (f"t={NOW}" + f",v1={OTHER}" * 50 + f",v1={v1()}", "ok"),
    "right v1 first of many": (f"t={NOW},v1={v1()}" + f",v1={OTHER}" * 50, "ok"),
    "unknown schemes": (f"t={NOW},v2=x,w=,v1={v1()},junk,=,", "ok"),
    "more after the hex": (f"t={NOW},v1={v1()}=more", "ok"),
    "first t counts": (f"t={NOW},v1={v1()},t=1", "ok"),
    "first t counts, wrong": (f"t=1,v1={v1()},t={NOW}", "signature_wrong"),
    "broken v1 beside the right one": (f"t={NOW},v1=,v1=é,v1={v1()},v1=zz", "ok"),
    "none": (None, "signature_missing"),
    "empty": ("", "signature_missing"),
    "right in v0 only": (f"t={NOW},v0={v1()}", "signature_malformed"),
    "no v1": (f"t={NOW}", "signature_malformed"),
    "no t": (f"v1={v1()}", "signature_malformed"),
    "v1 without a value": (f"t={NOW},v1", "signature_malformed"),
    "t without a value": (f"t,v1={v1()}", "signature_malformed"),
    "v1 without a value beside the right one": (f"t={NOW},v1={v1()},v1", "signature_malformed"),
    "t without a value beside the right one": (f"t={NOW},v1={v1()},t", "signature_malformed"),
    "space before v1": (f"t={NOW}, v1={v1()}", "signature_malformed"),
    "semicolons": (f"t={NOW};v1={v1()}", "signature_malformed"),
    "garbage": ("garbage", "signature_malformed"),
    "upper-case scheme": (f"t={NOW},V1={v1()}", "signature_malformed"),
    "another": (f"t={NOW},v1={OTHER}", "signature_wrong"),
    "upper-case hex": (f"t={NOW},v1={v1().upper()}", "signature_wrong"),
    "cut": (f"t={NOW},v1={v1()[:-1]}", "signature_wrong"),
    "longer": (f"t={NOW},v1={v1()}0", "signature_wrong"),
    "of another time": (f"t={NOW + 1},v1={v1()}", "signature_wrong"),
    "not ASCII": (f"t={NOW},v1={'é' * 64}", "signature_wrong"),
    "not latin-1": (f"t={NOW},v1={'☃' * 64}", "signature_wrong"),
    "empty v1": (f"t={NOW},v1=", "signature_wrong"),
}
ODD_TIMES = [
    "",
    " ",
    f" {NOW}",
    f"{NOW} ",
    f"0{NOW}",
    f"+{NOW}",
    f"-{NOW}",
    f"{NOW}.0",
    "1_780_000_000",
    "1e9",
    "0x6a18",
    "١٧٨٠٠٠٠٠٠٠",
    "１７８０００００００",
    "²",
    "9" * 16,
    "9" * 5000,
    f"{NOW}\n",
]


@pytest.mark.parametrize(("header", "expected"), list(CASES.values()), ids=list(CASES))
def test_headers(header: str | None, expected: str) -> None:
    assert verdict(header) == expected


@pytest.mark.parametrize("t", ODD_TIMES)
def test_only_ascii_digits_are_a_time(t: str) -> None:
    # Signed as written, so that nothing but the form of `t` is wrong.
    digest = hmac.new(SECRET.encode(), t.encode() + b"." + BODY, hashlib.sha256).hexdigest()
    assert verdict(f"t={t},v1={digest}") == "signature_malformed"
    assert verdict(f"t={t},v1={v1()}") == "signature_malformed"


@pytest.mark.parametrize(
    ("away", "expected"),
    [
        (0, "ok"),
        (300, "ok"),
        (-300, "ok"),
        (300.5, "signature_expired"),
        (-300.5, "signature_expired"),
        (301, "signature_expired"),
        (-301, "signature_expired"),
        (1e12, "signature_expired"),
        (float("nan"), "signature_expired"),
    ],
)
def test_the_tolerance_goes_both_ways(away: float, expected: str) -> None:
    assert verdict(f"t={NOW},v1={v1()}", now=NOW + away) == expected


def test_what_is_wrong_is_wrong_whatever_its_time() -> None:
    assert verdict(f"t=1,v1={OTHER}") == "signature_wrong"
    assert verdict(f"t=0,v1={v1(t='0')}") == "signature_expired"


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("as_bytes", [True, False])
def test_any_secret_may_have_signed(place: int, as_bytes: bool) -> None:
    secrets: list[str | bytes] = ["whsec_a", "whsec_b", "whsec_c"]
    secrets.insert(place, SECRET.encode() if as_bytes else SECRET)
    assert verdict(f"t={NOW},v1={v1()}", secrets=secrets) == "ok"


def test_no_secret_proves_nothing() -> None:
    assert verdict(f"t={NOW},v1={v1()}", secrets=()) == "signature_wrong"
    assert verdict(f"t={NOW},v1={v1(secret='')}", secrets=("whsec_a",)) == "signature_wrong"


@pytest.mark.parametrize("secret", ["", " ", "\t\n"])
def test_a_blank_secret_never_verifies(secret: str) -> None:
    header = f"t={NOW},v1={v1(secret=secret)}"
    assert verdict(header, secrets=(secret, secret.encode())) == "signature_wrong"
    with pytest.raises(ConfigError, match="--signing-secret is blank") as raised:
        check_secret(secret)
    assert raised.value.setting == "--signing-secret"


def test_a_secret_that_is_there_is_accepted() -> None:
    check_secret(SECRET)


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"\xef\xbb\xbf{}", "é".encode(), b"x" * 10**6])
def test_any_bytes_can_be_signed(body: bytes) -> None:
    assert verdict(f"t={NOW},v1={v1(body)}", body) == "ok"
    assert verdict(f"t={NOW},v1={v1(body + b' ')}", body) == "signature_wrong"


def test_every_secret_meets_every_signature() -> None:
    compared = []
    compare_digest = hmac.compare_digest

    def compare(expected: bytes, candidate: bytes) -> bool:
        compared.append((expected, candidate))
        return compare_digest(expected, candidate)

    header = f"t={NOW},v1={v1()},v1={OTHER},v1={'1' * 64}"
    with mock.patch("relay.core.signature.hmac.compare_digest", compare):
        assert verdict(header, secrets=(SECRET, "whsec_a", "whsec_b")) == "ok"
    assert len(set(compared)) == 9


def test_sign_is_what_verify_wants() -> None:
    assert sign(BODY, SECRET, NOW) == f"t={NOW},v1={v1()}"
    assert verdict(sign(BODY, SECRET.encode(), NOW)) == "ok"


def test_a_source_may_take_bodies_on_trust() -> None:
    assert accept_unsigned(BODY) is BODY


# Against Stripe's own package.


def stripes_verdict(header: str, body: bytes, secret: str, now: float) -> bool | None:
    """None where the package fails in a way that it does not document."""
    with mock.patch("stripe._webhook.time.time", return_value=now):
        try:
            stripe.WebhookSignature.verify_header(body, header, secret, 300)
        except stripe.SignatureVerificationError:
            return False
        except (TypeError, UnicodeError):
            return None
    return True


pieces = st.one_of(
    st.sampled_from(
        [
            f"t={NOW}",
            f"t={NOW - 300}",
            f"t={NOW - 301}",
            f"v1={v1()}",
            f"v1={v1(t=str(NOW - 300))}",
            f"v1={v1(t=str(NOW - 301))}",
            f"v0={v1()}",
            f"v1={OTHER}",
            f"v1={v1()}=",
            "t",
            "v1",
            "t=",
            "",
            "=",
        ]
    ),
    st.text(max_size=5),
    st.builds("{}={}".format, st.sampled_from(["t", "v1", " v1", "v0"]), st.text(max_size=5)),
)


@settings(max_examples=1000)
@given(
    header=st.lists(pieces, max_size=6).map(",".join),
    body=st.one_of(st.just(BODY), st.binary(max_size=5)),
    now=st.sampled_from([NOW, NOW - 0.5, NOW + 0.5]),
)
@example(header=f"t={NOW},v1={v1()}", body=BODY, now=NOW)
@example(header=f"t={NOW - 300},v1={v1(t=str(NOW - 300))}", body=BODY, now=NOW)
@example(header=f"t={NOW - 300},v1={v1(t=str(NOW - 300))}", body=BODY, now=NOW + 0.5)
def test_as_stripes_package_does(header: str, body: bytes, now: float) -> None:
    ours = verdict(header, body, now=now) == "ok"
    theirs = stripes_verdict(header, body, SECRET, now)
    # It crashes on text that is not ASCII and bodies that are not UTF-8, and takes any `t` that
    # `int` takes.
    assume(theirs is not None)
    times = [item.split("=")[1] for item in header.split(",") if item.startswith("t=")]
    assume(not times or re.fullmatch("0|[1-9][0-9]*", times[0]))
    assert ours == theirs


@given(
    body=st.text().map(str.encode),
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    now=st.integers(1, 2**40),
)
def test_what_stripes_package_signs_is_accepted(body: bytes, secret: str, now: int) -> None:
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, now)
    assert verdict(header, body, (secret,), now) == "ok"
    assert sign(body, secret, now) == header


@given(st.one_of(st.none(), st.text(st.characters())), st.binary(), st.floats())
def test_anything_gets_a_verdict(header: str | None, body: bytes, now: float) -> None:
    verdict(header, body, now=now)
