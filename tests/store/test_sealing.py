"""Secrets at rest: what one key seals, a list with that key opens, and nothing else does."""

from __future__ import annotations

import traceback

import pytest

from relay.core.errors import ConfigError
from relay.settings import load
from relay.store.sealing import Seal, new_key


def test_what_is_sealed_can_be_opened_and_is_not_readable() -> None:
    seal = Seal([new_key()])
    sealed = seal.seal(b"whsec_abc")
    assert b"whsec_abc" not in sealed
    assert seal.open(sealed) == b"whsec_abc"
    assert seal.seal(b"whsec_abc") != sealed, "equal secrets must not look equal"


@pytest.mark.parametrize("plain", [b"", b"\x00\xff", b"x" * 10_000])
def test_any_bytes_can_be_sealed(plain: bytes) -> None:
    seal = Seal([new_key()])
    assert seal.open(seal.seal(plain)) == plain


def test_the_first_key_seals_and_every_key_opens() -> None:
    old, new = new_key(), new_key()
    before = Seal([old]).seal(b"secret")
    both = Seal([new, old])
    assert both.open(before) == b"secret"
    assert Seal([new]).open(both.seal(b"secret")) == b"secret"
    with pytest.raises(ConfigError):
        Seal([old]).open(both.seal(b"secret"))


def test_renewing_makes_the_old_key_superfluous() -> None:
    old, new = new_key(), new_key()
    renewed = Seal([new, old]).renew(Seal([old]).seal(b"secret"))
    assert Seal([new]).open(renewed) == b"secret"
    with pytest.raises(ConfigError):
        Seal([old]).open(renewed)


@pytest.mark.parametrize("method", ["open", "renew"])
def test_a_secret_of_another_key_names_the_fix(method: str) -> None:
    sealed = Seal([new_key()]).seal(b"secret")
    with pytest.raises(ConfigError, match="RELAY_ENCRYPTION_KEYS: add the key") as caught:
        getattr(Seal([new_key()]), method)(sealed)
    assert caught.value.setting == "RELAY_ENCRYPTION_KEYS"


def test_a_changed_token_is_not_opened() -> None:
    seal = Seal([new_key()])
    sealed = bytearray(seal.seal(b"secret"))
    sealed[20] ^= 1
    with pytest.raises(ConfigError):
        seal.open(bytes(sealed))
    with pytest.raises(ConfigError):
        seal.open(b"")


def test_no_key_is_an_error_only_where_a_secret_is() -> None:
    seal = Seal([])
    for use in (seal.seal, seal.open, seal.renew):
        with pytest.raises(ConfigError, match="RELAY_ENCRYPTION_KEYS is not set"):
            use(b"x")


def test_a_wrong_key_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        Seal(["hunter2"])
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__


def test_a_new_key_is_what_the_settings_take() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert load({"RELAY_ENCRYPTION_KEYS": key}).encryption_keys == (key,)


def test_the_seal_does_not_show_its_keys() -> None:
    key = new_key()
    assert key not in repr(Seal([key]))
