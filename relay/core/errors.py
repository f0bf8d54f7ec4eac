"""The exceptions that relay raises on purpose.

    RelayError
    ├── ConfigError         a setting is wrong; the message names it and the fix
    ├── SignatureError      a request is not proven to come from Stripe
    └── UnusableEvent       the bytes are genuine but are no event that can be relayed

Every one carries a `code`: a short stable word that reaches HTTP answers, dead letters and
metrics. The message is for people and may change.
"""

from __future__ import annotations

from typing import ClassVar


class RelayError(Exception):
    """Something in relay went wrong."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None, *, code: str | None = None) -> None:
        self.code = code or self.default_code
        self.message = message or (type(self).__doc__ or "").partition("\n")[0]
        super().__init__(self.message)


class ConfigError(RelayError):
    """A setting is wrong.

    `setting` is the flag or variable that has to change, so that a caller can point at it.
    """

    default_code = "config"

    def __init__(self, message: str | None = None, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


class SignatureError(RelayError):
    """The signature does not prove that Stripe sent these bytes.

    Its codes are the `CODES`.
    """

    CODES: ClassVar = (
        "signature_missing",
        "signature_malformed",
        "signature_wrong",
        "signature_expired",
    )
    default_code = "signature_wrong"

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(message, code=code)


class UnusableEvent(RelayError):  # noqa: N818 - a verdict on the event, not a fault of ours
    """The body is not a snapshot event that can be relayed.

    Its codes are the `CODES`.
    """

    CODES: ClassVar = (
        "not_utf8",
        "bom",
        "invalid_json",
        "too_deep",
        "thin_payload",
        "missing_id",
        "invalid_id",
        "missing_type",
        "invalid_type",
        "missing_object",
        "invalid_object_id",
    )
    default_code = "invalid_json"

    def __init__(self, code: str, message: str | None = None) -> None:
        super().__init__(message, code=code)
