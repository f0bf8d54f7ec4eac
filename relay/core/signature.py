"""Stripe's webhook signature: `Stripe-Signature: t=UNIX,v1=HEX[,v1=HEX...][,v0=HEX]`.

HMAC-SHA256 over `t + "." + body` with the secret as it is written, `whsec_` included.
https://docs.stripe.com/webhooks#verify-manually
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NewType

from relay.core.errors import ConfigError, SignatureError

VerifiedBody = NewType("VerifiedBody", bytes)
"""A body that is proven to come from Stripe, or that a source was told to take without proof."""

_SCHEME: Final = "v1"
_HEX_DIGITS: Final = 64
# `int` takes leading zeros, `_`, spaces and every Unicode digit, and raises beyond 4,300 digits.
_timestamp: Final = re.compile(r"(?:0|[1-9][0-9]{0,14})").fullmatch


def verify(
    body: bytes,
    header: str | None,
    secrets: Sequence[bytes | str],
    now: float,
    tolerance: int,
) -> VerifiedBody:
    """Proves that the holder of one of the secrets signed these bytes around `now`.

    `header` is the value of `Stripe-Signature`, `now` in Unix seconds, `tolerance` in seconds and
    in both directions. Every secret is tried against every `v1`, in the same time whichever of
    them fits. The first `t` counts, as in Stripe's own packages; other schemes are ignored.

    Raises SignatureError: `signature_missing` (no header), `signature_malformed` (no usable `t` or
    no `v1`), `signature_wrong`, or `signature_expired` (right, but outside the tolerance).
    """
    if not header:
        raise SignatureError("signature_missing", "there is no Stripe-Signature header")
    timestamp, candidates = _parse(header)
    message = timestamp.encode("ascii") + b"."
    genuine = False
    for secret in secrets:
        if not secret.strip():
            continue  # anybody can sign with nothing
        expected = _sign(message, body, secret)
        for candidate in candidates:
            genuine |= hmac.compare_digest(expected, candidate)
    if not genuine:
        raise SignatureError("signature_wrong", "no v1 signature fits any secret of the source")
    if not abs(now - int(timestamp)) <= tolerance:
        raise SignatureError(
            "signature_expired",
            f"signed {now - int(timestamp):.0f} s ago, more than {tolerance} s from now",
        )
    return VerifiedBody(body)


def accept_unsigned(body: bytes) -> VerifiedBody:
    """For a source that was created with `--insecure`: takes the bytes on trust."""
    return VerifiedBody(body)


def check_secret(secret: str, setting: str = "--signing-secret") -> None:
    """Raises ConfigError for what is no signing secret: it would verify nothing, or everything.

    Names ``setting`` and never shows the secret.
    """
    text = secret.strip()
    if not text:
        wrong = " is blank; copy the signing secret of the webhook endpoint (whsec_...)"
    elif text.startswith(("sk_", "rk_", "pk_")):
        wrong = ": that is an API key; signing secrets are whsec_…"
    elif not (text.isascii() and text.isprintable()) or " " in text:
        wrong = ": has a character that no secret has"
    else:
        return
    raise ConfigError(setting + wrong, setting=setting)


def sign(body: bytes, secret: bytes | str, timestamp: int) -> str:
    """The header that Stripe would send: for tests, the demo and the built-in fake."""
    digest = _sign(b"%d." % timestamp, body, secret).decode("ascii")
    return f"t={timestamp},{_SCHEME}={digest}"


def _parse(header: str) -> tuple[str, list[bytes]]:
    times: list[str] = []
    signatures: list[str] = []
    found = {"t": times, _SCHEME: signatures}
    for item in header.split(","):
        # As Stripe's package does it: `v1=abc=def` is `abc`, and `v1` alone spoils the header.
        scheme, *values = item.split("=", 2)
        if scheme in found:
            if not values:
                raise SignatureError("signature_malformed", f"{scheme} has no value")
            found[scheme].append(values[0])
    if not times or not _timestamp(times[0]):
        raise SignatureError("signature_malformed", "Stripe-Signature has no Unix time t=")
    if not signatures:
        raise SignatureError("signature_malformed", "Stripe-Signature has no v1= signature")
    # What cannot be a SHA-256 is wrong without a comparison: 64 KB of `v1=,` cost nothing.
    return times[0], [
        text.encode("ascii") for text in signatures if len(text) == _HEX_DIGITS and text.isascii()
    ]


def _sign(message: bytes, body: bytes, secret: bytes | str) -> bytes:
    # Two updates instead of one concatenation: the body may be 50 MB.
    mac = _keyed(secret).copy()
    mac.update(message)
    mac.update(body)
    return mac.hexdigest().encode("ascii")


@lru_cache(maxsize=4096)
def _keyed(secret: bytes | str) -> hmac.HMAC:
    """A context with the key already mixed in: copying it is half the price of making it."""
    return hmac.new(secret.encode("utf-8") if isinstance(secret, str) else secret, None, "sha256")
