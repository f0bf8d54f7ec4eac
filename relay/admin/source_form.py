"""The form of a source's settings: as it was typed, and what it means."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.admin import source_words
from relay.admin.answers import Refusal
from relay.admin.source_words import LABELS
from relay.core.catalog import ALL_RESOURCES, RESOURCES
from relay.core.errors import ConfigError
from relay.core.signature import check_secret
from relay.core.source import SourceConfig
from relay.core.stripe_key import key_mode

PICKED: Final = frozenset(name for group in RESOURCES.values() for name in group)
"""The resources with a box of their own."""

_SEPARATORS: Final = re.compile(r"[\s,]+")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")

Fields = Mapping[str, Sequence[str]]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """The fields as they were typed. No secret is among them: those are never shown again."""

    name: str = ""
    every: bool = False
    """Every resource has a topic of its own, whatever is ticked."""
    ticked: tuple[str, ...] = ()
    others: str = ""
    unselected: str = ""
    default_topic: str = ""
    metadata: bool = False
    fan_out: tuple[str, ...] = ()
    dlq: bool = False
    dlq_topic: str = ""
    topic_prefix: str = ""
    route_by: str = ""
    tombstones: bool = False
    tolerance: str = ""
    mode: str = ""
    insecure: bool = False
    reason: str = ""
    seen: str | None = None


class Wrong(msgspec.Struct, frozen=True):
    """What was wrong with a form, and with which of its fields."""

    field: str | None
    message: str
    status: int = 400


def of_config(config: SourceConfig, *, seen: str | None = None) -> Form:
    """The form of a source as it is; ``seen`` is its version."""
    every = ALL_RESOURCES in config.resources
    resources = () if every else config.resources
    return Form(
        name=config.name,
        every=every,
        ticked=tuple(name for name in resources if name in PICKED),
        others=", ".join(name for name in resources if name not in PICKED),
        unselected=config.unselected,
        default_topic=config.default_topic,
        metadata=config.metadata,
        fan_out=config.fan_out,
        dlq=config.dlq,
        dlq_topic=config.dlq_topic,
        topic_prefix=config.topic_prefix,
        route_by=config.route_by,
        tombstones=config.tombstones,
        tolerance=str(config.tolerance),
        mode=config.mode,
        insecure=config.insecure,
        seen=seen,
    )


def of_fields(fields: Fields) -> Form:
    """The form that a browser has sent."""

    def text(name: str) -> str:
        return fields.get(name, [""])[-1].strip()

    return Form(
        name=text("name"),
        every=text("every") == "yes",
        ticked=tuple(fields.get("resource", ())),
        others=text("others"),
        unselected=text("unselected"),
        default_topic=text("default_topic"),
        metadata="metadata" in fields,
        fan_out=tuple(fields.get("fan_out", ())),
        dlq="dlq" in fields,
        dlq_topic=text("dlq_topic"),
        topic_prefix=text("topic_prefix"),
        route_by=text("route_by"),
        tombstones="tombstones" in fields,
        tolerance=text("tolerance"),
        mode=text("mode"),
        insecure="insecure" in fields,
        reason=text("reason"),
        seen=text("seen") or None,
    )


def seen_again(form: Form, seen: str) -> Form:
    """What was typed, for the version of the source that there is now."""
    return msgspec.structs.replace(form, seen=seen)


def settings_of(form: Form, present: SourceConfig | None = None) -> dict[str, Any]:
    """What the form says, by the names of ``SourceConfig``. Raises ConfigError for no number.

    Lists that have the members of the ``present`` ones keep their order: a form has none.
    """
    resources = (*form.ticked, *split(form.others))
    if form.every:
        resources = (ALL_RESOURCES,)
    if not _WHOLE.fullmatch(form.tolerance):
        raise ConfigError(
            f"--tolerance: {form.tolerance!r} is no whole number of seconds; the default is 300",
            setting="--tolerance",
        )
    return {
        "name": form.name,
        "resources": _ordered(resources, present.resources if present else ()),
        "unselected": form.unselected,
        "default_topic": form.default_topic,
        "metadata": form.metadata,
        "fan_out": _ordered(form.fan_out, present.fan_out if present else ()),
        "dlq": form.dlq,
        "dlq_topic": form.dlq_topic,
        "topic_prefix": form.topic_prefix,
        "route_by": form.route_by,
        "tombstones": form.tombstones,
        "tolerance": int(form.tolerance),
        "mode": form.mode,
        "insecure": form.insecure,
    }


def signing_secrets(text: str) -> tuple[str, ...]:
    """Those that were typed, apart by blanks or commas. Raises ConfigError, without showing one."""
    found = split(text)
    for secret in found:
        check_secret(secret)
        if secret.count("whsec_") > 1:
            # A field of one line joins what is pasted into it.
            raise ConfigError(
                "--signing-secret: two of them run into each other; put a blank between them",
                setting="--signing-secret",
            )
    return tuple(dict.fromkeys(found))


def stripe_key(text: str) -> str | None:
    """The key that was typed, if one was. Raises ConfigError, without showing it."""
    key = text.strip()
    if not key:
        return None
    key_mode(key)
    return key


def given_stripe_key(text: str) -> str:
    """The same where there must be one."""
    key = stripe_key(text)
    if key is None:
        raise ConfigError("--stripe-api-key is blank", setting="--stripe-api-key")
    return key


def wrong_of(error: ConfigError | Refusal) -> Wrong:
    """What to say beside the form."""
    if isinstance(error, ConfigError):
        return Wrong(source_words.field_of(error), source_words.for_people(error))
    field, colon, rest = error.message.partition(": ")
    if colon and field in LABELS:
        return Wrong(field, f"{source_words.label_of(field)}: {rest}", error.status)
    return Wrong(None, error.message, error.status)


def split(text: str) -> tuple[str, ...]:
    """Words apart by blanks or commas."""
    return tuple(word for word in _SEPARATORS.split(text) if word)


def _ordered(names: Collection[str], present: tuple[str, ...]) -> tuple[str, ...]:
    return present if sorted(names) == sorted(present) else tuple(names)
