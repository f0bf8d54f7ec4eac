"""What a key of the Stripe API says about itself."""

from __future__ import annotations

import re
from typing import Final, Literal

from relay.core.errors import ConfigError

KeyMode = Literal["live", "test"]

_MODES: Final[dict[str, KeyMode]] = {
    "sk_live_": "live",
    "sk_test_": "test",
    "rk_live_": "live",
    "rk_test_": "test",
}
"""Secret and restricted keys. Sandboxes have keys of test mode."""

_WRONG: Final = {
    "pk_": "a publishable key (pk_…) can read nothing; use a secret key (sk_…) or, better,"
    " a restricted one (rk_…) that may read the resources of the schema",
    "whsec_": "that is a signing secret; use an API key (sk_… or rk_…)",
    "sk_org_": "a key of an organisation (sk_org_…) is not supported; use one of the account",
}

_key: Final = re.compile(r"[A-Za-z0-9_]+").fullmatch


def key_mode(key: str, *, setting: str = "--stripe-api-key") -> KeyMode:
    """Whether it is a key of live or of test mode.

    Raises ConfigError, which names ``setting`` and never shows the key, for anything that is not
    a secret or restricted key of an account.
    """
    for prefix, wrong in _WRONG.items():
        if key.startswith(prefix):
            raise ConfigError(f"{setting}: {wrong}", setting=setting)
    for prefix, mode in _MODES.items():
        if key.startswith(prefix) and key != prefix and _key(key):
            return mode
    raise ConfigError(
        f"{setting} must be a key of Stripe: sk_live_…, sk_test_…, rk_live_… or rk_test_…",
        setting=setting,
    )
