"""What an operator does with a source: at the command line, on the pages and by the API alike.

Everything goes by in the caller's transaction, with its entry in the operator log. An entry names
what changed, and never holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.core.errors import ConfigError, RelayError
from relay.core.source import SourceConfig, check_verified, with_settings
from relay.store import events, snapshots, sources
from relay.store.events import Operator
from relay.store.sealing import Seal
from relay.store.sources import SETTINGS, Source, Unfinished

_FEWEST_CHARACTERS = 4
"""Of the end of a secret, so that it is one that was looked up and not guessed."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What shall be different; what is not named stays."""

    settings: Mapping[str, Any] = {}
    """By the names of ``SourceConfig``."""
    signing_secrets: tuple[str, ...] | None = None
    """All of them from now on."""
    added: tuple[str, ...] = ()
    """Signing secrets that are taken, too."""
    removed: tuple[str, ...] = ()
    """Signing secrets that are not any more, by their last characters."""
    stripe_api_key: str | None = None
    forget_stripe_key: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing at all."""
        return self == Change()


class Changed(msgspec.Struct, frozen=True):
    """A source after a change, and the names of what is different, in their order."""

    source: Source
    names: list[str]


class Discarded(msgspec.Struct, frozen=True):
    """What was given up with a source."""

    source: SourceConfig
    events: int
    dead_letters: int


class NotFinished(RelayError):  # noqa: N818 - an answer, and no fault of ours
    """A source has events that are not finished."""

    default_code = "not_finished"

    def __init__(self, name: str, left: Unfinished) -> None:
        super().__init__(
            f"source {name} has {left.queued} waiting events and {left.dead} dead letters"
        )


class _Secrets(msgspec.Struct, frozen=True):
    """Sealed signing secrets after a change, and how many are new and gone."""

    sealed: list[bytes]
    added: int
    removed: int


async def create(
    connection: AsyncConnection, config: SourceConfig, wanted: Change, seal: Seal, who: Operator
) -> tuple[Source, str]:
    """Make a source of the settings, and a first key, which is not kept.

    Raises ConfigError that names what is wrong with it.
    """
    secrets = wanted.signing_secrets or ()
    config = with_settings(config, wanted.settings)
    check_verified(config, has_secrets=bool(secrets))
    made, key = await sources.create(
        connection,
        config,
        sealed_secrets=_seal_all(secrets, seal),
        sealed_stripe_key=_sealed(wanted.stripe_api_key, seal),
    )
    await events.log(connection, who, "source.create", made.config.public_id)
    return made, key


async def update(
    connection: AsyncConnection, found: Source, wanted: Change, seal: Seal, who: Operator
) -> Changed:
    """Change a source that the caller has locked. Raises ConfigError that names what is wrong."""
    before = found.config
    secrets = _change_secrets(found.sealed_secrets, wanted, seal)
    settings = dict(wanted.settings)
    if secrets.sealed:
        # Whoever gives a secret means it, and the two contradict each other.
        settings.setdefault("insecure", False)
    config = with_settings(before, settings)
    check_verified(config, has_secrets=bool(secrets.sealed))
    stripe_key = found.sealed_stripe_key
    if wanted.stripe_api_key is not None or wanted.forget_stripe_key:
        stripe_key = _sealed(wanted.stripe_api_key, seal)
    await sources.update_settings(
        connection,
        before.source_id,
        config,
        sealed_secrets=secrets.sealed,
        sealed_stripe_key=stripe_key,
    )
    names = [name for name in SETTINGS if getattr(before, name) != getattr(config, name)]
    details: dict[str, Any] = {"changed": names}
    if secrets.added or secrets.removed:
        names.append("signing_secrets")
        details |= {"secrets_added": secrets.added, "secrets_removed": secrets.removed}
    if _is_other(found.sealed_stripe_key, stripe_key, seal):
        names.append("stripe_api_key")
    await events.log(connection, who, "source.update", before.public_id, details)
    return Changed(await sources.find(connection, before.public_id), names)


async def rotate_key(
    connection: AsyncConnection, found: Source, grace: timedelta, who: Operator
) -> str:
    """A new key for the URL, which is not kept; the others end after the grace time."""
    key = await sources.rotate_key(connection, found.config.source_id, grace)
    details = {"old_keys_end_in_seconds": int(grace.total_seconds())}
    await events.log(connection, who, "source.rotate_key", found.config.public_id, details)
    return key


async def set_forwarding(
    connection: AsyncConnection, found: Source, action: Literal["pause", "resume"], who: Operator
) -> Source:
    """Stop forwarding, or go on with it after a pause or a halt. It receives all the time."""
    change = sources.pause if action == "pause" else sources.resume
    await change(connection, found.config.source_id)
    await events.log(connection, who, f"source.{action}", found.config.public_id)
    return await sources.find(connection, found.config.public_id)


async def delete(
    connection: AsyncConnection, found: Source, who: Operator, *, discard_pending: bool
) -> Discarded:
    """Close a source that the caller has locked.

    Raises NotFinished while it has unfinished events, unless they are to be given up.
    """
    config = found.config
    # First, since it waits for the pages in hand, whose events are unfinished too.
    await snapshots.cancel_all(connection, config.source_id)
    left = await sources.unfinished(connection, config.source_id)
    discarded = (0, 0)
    if discard_pending:
        discarded = await events.discard_source(connection, config.source_id, who)
    elif left.queued or left.dead:
        raise NotFinished(config.name, left)
    await sources.delete(connection, config.source_id)
    await events.log(connection, who, "source.delete", config.public_id)
    return Discarded(config, *discarded)


def _change_secrets(sealed: Sequence[bytes], wanted: Change, seal: Seal) -> _Secrets:
    if wanted.signing_secrets is None and not wanted.added and not wanted.removed:
        return _Secrets(list(sealed), 0, 0)
    if wanted.signing_secrets is None:
        kept = {seal.open(each).decode(): each for each in sealed}
        before = set(kept)
    else:
        # Those of before may be under a key that is lost: that is what they are set anew for.
        kept = dict(
            zip(wanted.signing_secrets, _seal_all(wanted.signing_secrets, seal), strict=True)
        )
        before = _opened(sealed, seal)
    kept |= {each: seal.seal(each.encode()) for each in wanted.added if each not in kept}
    for end in wanted.removed:
        del kept[_ending(end, kept)]
    gone = before - set(kept)
    lost = len(sealed) - len(before) if wanted.signing_secrets is not None else 0
    return _Secrets(list(kept.values()), len(set(kept) - before), len(gone) + lost)


def _ending(end: str, secrets: Iterable[str]) -> str:
    present = list(secrets)
    end = end.strip()
    fitting = [secret for secret in present if secret.endswith(end)]
    if len(end) < _FEWEST_CHARACTERS or len(fitting) != 1:
        raise ConfigError(
            f"--remove-signing-secret: {len(fitting)} of the source's {len(present)} secrets end"
            f" like that; give {_FEWEST_CHARACTERS} or more characters that only one ends with",
            setting="--remove-signing-secret",
        )
    return fitting[0]


def _is_other(before: bytes | None, after: bytes | None, seal: Seal) -> bool:
    if before is None or after is None:
        return before is not after
    return before != after and _opened([before], seal) != _opened([after], seal)


def _opened(sealed: Iterable[bytes], seal: Seal) -> set[str]:
    """Those that can be opened."""
    found = set()
    for each in sealed:
        try:
            found.add(seal.open(each).decode())
        except ConfigError:
            continue
    return found


def _seal_all(secrets: Iterable[str], seal: Seal) -> list[bytes]:
    return [seal.seal(secret.encode()) for secret in secrets]


def _sealed(secret: str | None, seal: Seal) -> bytes | None:
    return None if secret is None else seal.seal(secret.encode())
