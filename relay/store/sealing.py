"""Secrets at rest: signing secrets and Stripe keys are stored encrypted, never as they are.

A sealed value is a Fernet token (AES-128-CBC with HMAC-SHA256). The first key seals and every key
opens, so that a new key is put in front, ``relay encryption-key rotate`` re-seals what is stored,
and only then the old key is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from relay.core.errors import ConfigError


def new_key() -> str:
    """A fresh key for ``RELAY_ENCRYPTION_KEYS``: 32 random bytes in URL-safe base 64."""
    return Fernet.generate_key().decode("ascii")


class Seal:
    """Seals and opens secrets with the keys of ``RELAY_ENCRYPTION_KEYS``.

    A deployment without any secret needs no key, so a missing one is an error only where it is
    used.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            # Without its cause: a traceback must not carry key material.
            raise ConfigError(
                "RELAY_ENCRYPTION_KEYS holds something that is no key:"
                " make keys with `relay encryption-key new`",
                setting="RELAY_ENCRYPTION_KEYS",
            ) from None

    def __repr__(self) -> str:
        return "Seal(…)"

    def seal(self, plain: bytes) -> bytes:
        """Encrypt with the first key. Raises ``ConfigError`` when there is no key."""
        return self._keys().encrypt(plain)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt with whichever key fits. Raises ``ConfigError`` when none does."""
        try:
            return self._keys().decrypt(sealed)
        except InvalidToken:
            raise _unopenable() from None

    def renew(self, sealed: bytes) -> bytes:
        """The same secret sealed with the first key. Raises ``ConfigError`` as ``open`` does."""
        try:
            return self._keys().rotate(sealed)
        except InvalidToken:
            raise _unopenable() from None

    def _keys(self) -> MultiFernet:
        if self._fernet is None:
            raise ConfigError(
                "RELAY_ENCRYPTION_KEYS is not set: secrets are stored encrypted only;"
                " make a key with `relay encryption-key new`",
                setting="RELAY_ENCRYPTION_KEYS",
            )
        return self._fernet


def _unopenable() -> ConfigError:
    return ConfigError(
        "a stored secret cannot be opened with any key in RELAY_ENCRYPTION_KEYS:"
        " add the key that it was encrypted with (at the end of the list), or set the"
        " source's secrets anew with `relay source update`",
        setting="RELAY_ENCRYPTION_KEYS",
    )
