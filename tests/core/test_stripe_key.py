from __future__ import annotations

import pytest

from relay.core.errors import ConfigError
from relay.core.stripe_key import key_mode


@pytest.mark.parametrize("kind", ["sk", "rk"])
@pytest.mark.parametrize("mode", ["live", "test"])
def test_a_key_says_its_mode(kind: str, mode: str) -> None:
    assert key_mode(f"{kind}_{mode}_51AbcDEF") == mode


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("pk_live_canary", "publishable"),
        ("pk_test_canary", "publishable"),
        ("whsec_canary", "signing secret"),
        ("sk_org_live_canary", "organisation"),
        ("sk_canary", "sk_live_…"),
        ("sk_live_", "sk_live_…"),
        ("", "sk_live_…"),
        ("canary", "sk_live_…"),
        (" sk_live_canary", "sk_live_…"),
        ("sk_live_canary\n", "sk_live_…"),
        ("sk_live_canary canary", "sk_live_…"),
        ("sk_live_cänary", "sk_live_…"),
    ],
)
def test_other_keys_are_refused_and_not_shown(key: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        key_mode(key, setting="RELAY_X")
    assert "nary" not in str(refused.value)
    assert refused.value.setting == "RELAY_X"
    assert str(refused.value).startswith("RELAY_X")
