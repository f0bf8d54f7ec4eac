"""Every error has a code and a message for people."""

from __future__ import annotations

import pytest

from relay.core.errors import ConfigError, RelayError, SignatureError, UnusableEvent


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RelayError(), "error", "Something in relay went wrong."),
        (RelayError("x", code="y"), "y", "x"),
        (ConfigError(), "config", "A setting is wrong."),
        (ConfigError("x", setting="--y"), "config", "x"),
        (
            SignatureError("signature_missing"),
            "signature_missing",
            "The signature does not prove that Stripe sent these bytes.",
        ),
        (
            UnusableEvent("bom"),
            "bom",
            "The body is not a snapshot event that can be relayed.",
        ),
        (UnusableEvent("bom", "x"), "bom", "x"),
    ],
)
def test_code_and_message(error: RelayError, code: str, message: str) -> None:
    assert (error.code, error.message, str(error)) == (code, message, message)
