"""The source `dev`: made once, and found again with a key and a signing secret that work."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError
from relay.core.source import SourceConfig
from relay.store import admission, sources
from relay.store.sealing import Seal
from relay.store.sources import Source

NAME: Final = "dev"

# Without the prefix of settings, which other commands would refuse: a shell may use them.
KEY: Final = "DEV_WEBHOOK_KEY"
SIGNING_SECRET: Final = "DEV_SIGNING_SECRET"  # noqa: S105 - a name, not a secret


class DevSource(msgspec.Struct, frozen=True):
    """The source with a key that opens its URL, and a secret that signs for it.

    ``added_secrets`` are those of its user, such as that of `stripe listen`. ``unopenable`` tells
    that its secrets were lost with their encryption key and replaced, ``reads_fake`` that its
    Stripe key is that of our fake.
    """

    public_id: str
    key: str
    signing_secret: str | None
    added_secrets: int
    insecure: bool
    unopenable: bool = False
    reads_fake: bool = False


async def ensure(
    connection: AsyncConnection, seal: Seal, left: Mapping[str, str], fake_key: str | None
) -> DevSource:
    """Find the source or make it. ``left`` is what the last start knew.

    It verifies signatures from the first moment, with a secret of its own. Without a Stripe key of
    its user it gets that of the fake, unless there is none (None).
    """
    for found in await sources.list_all(connection):
        if found.config.name == NAME:
            return await _found(connection, seal, left, found, fake_key)
    secret = _new_secret()
    config = SourceConfig(source_id=0, public_id="", name=NAME)
    made, key = await sources.create(
        connection,
        config,
        sealed_secrets=[seal.seal(secret.encode())],
        sealed_stripe_key=None if fake_key is None else seal.seal(fake_key.encode()),
    )
    fake = fake_key is not None
    return DevSource(made.config.public_id, key, secret, 0, insecure=False, reads_fake=fake)


async def _found(
    connection: AsyncConnection,
    seal: Seal,
    left: Mapping[str, str],
    found: Source,
    fake_key: str | None,
) -> DevSource:
    unopenable = False
    sealed, sealed_stripe_key = list(found.sealed_secrets), found.sealed_stripe_key
    try:
        present = sources.open_secrets(found.sealed_secrets, seal)
        stripe_key = None if sealed_stripe_key is None else seal.open(sealed_stripe_key).decode()
    except ConfigError:
        unopenable = True
        present, stripe_key, sealed_stripe_key = (_new_secret(),), None, None
        sealed = [seal.seal(present[0].encode())]
    if stripe_key is None and fake_key is not None:
        stripe_key, sealed_stripe_key = fake_key, seal.seal(fake_key.encode())
    if (sealed, sealed_stripe_key) != (list(found.sealed_secrets), found.sealed_stripe_key):
        await sources.update_settings(
            connection,
            found.config.source_id,
            found.config,
            sealed_secrets=sealed,
            sealed_stripe_key=sealed_stripe_key,
        )
    own = present[0] if unopenable else left.get(SIGNING_SECRET)
    return DevSource(
        public_id=found.config.public_id,
        key=await _good_key(connection, seal, found, left.get(KEY)),
        signing_secret=own if own in present else None,
        added_secrets=sum(secret != own for secret in present),
        insecure=not present,
        unopenable=unopenable,
        reads_fake=stripe_key is not None and stripe_key == fake_key,
    )


async def _good_key(
    connection: AsyncConnection, seal: Seal, found: Source, left: str | None
) -> str:
    """The key of the last start if it is still good, otherwise one more."""
    if left is not None:
        admitted = (await admission.load(connection, seal)).sources[found.config.public_id]
        if hashlib.sha256(left.encode()).digest() in admitted.key_sha256s:
            return left
    return await sources.add_key(connection, found.config.source_id)


def _new_secret() -> str:
    return "whsec_" + secrets.token_urlsafe(24)
