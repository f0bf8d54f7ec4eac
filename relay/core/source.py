"""The settings of one source, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal, get_args

import msgspec

from relay.core.catalog import ALL_RESOURCES, DEFAULT_RESOURCES, FAN_OUTS, RESOURCES
from relay.core.errors import ConfigError
from relay.core.routing import MAX_TOPIC_LENGTH, RouteBy, is_legal_topic

Unselected = Literal["DEFAULT_TOPIC", "SKIP", "FAIL"]
Mode = Literal["any", "live", "test"]

MAX_TOLERANCE: Final = 31_536_000
"""Seconds. A signature that is good for more than a year protects from nothing."""

_NAME_LENGTH: Final = 100
_resource: Final = re.compile(r"[a-z0-9_]+").fullmatch
_prefix: Final = re.compile(r"[a-zA-Z0-9._-]*").fullmatch


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One Stripe account (or Connect platform) and how its events become records."""

    source_id: int
    """The key of its row; internal."""
    public_id: str
    """`src_...`: the one in the URL."""
    name: str
    resources: tuple[str, ...] = DEFAULT_RESOURCES
    """Those with a topic of their own; `("*",)` is every one."""
    unselected: Unselected = "DEFAULT_TOPIC"
    """What happens to the others."""
    default_topic: str = "unknown"
    metadata: bool = True
    fan_out: tuple[str, ...] = ()
    dlq: bool = True
    dlq_topic: str = "dead_letter"
    """Empty: dead letters stay in the table."""
    topic_prefix: str = ""
    route_by: RouteBy = "event_type"
    tombstones: bool = False
    tolerance: int = 300
    """Seconds between the signature and now, in both directions."""
    mode: Mode = "any"
    insecure: bool = False
    """Take events without a signature when there is no signing secret."""


def validate(config: SourceConfig) -> None:
    """Raises ConfigError that names the first wrong flag and the fix."""
    _check_name(config.name)
    _check_choice("--unselected", config.unselected, get_args(Unselected))
    _check_choice("--route-by", config.route_by, get_args(RouteBy))
    _check_choice("--mode", config.mode, get_args(Mode))
    _check_prefix(config.topic_prefix)
    _check_resources(config.resources, config.topic_prefix)
    _check_fan_out(config.fan_out, config.topic_prefix)
    _check_topic("--default-topic", config.default_topic, config.topic_prefix)
    if config.dlq_topic:
        _check_topic("--dlq-topic", config.dlq_topic, config.topic_prefix)
        _check_dlq_topic_apart(config)
    if not 0 < config.tolerance <= MAX_TOLERANCE:
        raise _error(
            "--tolerance",
            f"{config.tolerance} is not between 1 and {MAX_TOLERANCE} seconds; the default is 300",
        )


class Topic(msgspec.Struct, frozen=True):
    """A topic that a source writes to, and what is in it."""

    topic: str
    records: str


def topics_of(config: SourceConfig) -> list[Topic]:
    """Where the records of a source go."""
    topics = []
    if ALL_RESOURCES in config.resources:
        topics.append(("<resource>", "every resource, each in its own topic"))
    topics += [(name, f"{name} objects") for name in config.resources if name != ALL_RESOURCES]
    topics += [(FAN_OUTS[name].resource, f"elements of {name}") for name in config.fan_out]
    if ALL_RESOURCES not in config.resources and config.unselected == "DEFAULT_TOPIC":
        topics.append((config.default_topic, "all other resources"))
    if config.dlq and config.dlq_topic:
        topics.append((config.dlq_topic, "copies of dead letters"))
    return [Topic(config.topic_prefix + topic, what) for topic, what in topics]


def with_settings(config: SourceConfig, settings: Mapping[str, Any]) -> SourceConfig:
    """``config`` with some settings changed. Raises ConfigError as ``validate`` does."""
    changed = msgspec.structs.replace(config, **settings)
    validate(changed)
    return changed


def check_verified(config: SourceConfig, *, has_secrets: bool) -> None:
    """Raises ConfigError unless a source either verifies or says that it does not."""
    if not has_secrets and not config.insecure:
        raise ConfigError(
            "--signing-secret is missing: Stripe shows it with the endpoint (locally"
            " `stripe listen --print-secret`); to take events without proof, for now, there is"
            " --insecure",
            setting="--signing-secret",
        )
    if has_secrets and config.insecure:
        raise ConfigError(
            "--insecure is for a source without a signing secret: leave it out",
            setting="--insecure",
        )


def _check_name(name: str) -> None:
    if not name or name != name.strip() or not name.isprintable() or len(name) > _NAME_LENGTH:
        raise _error(
            "NAME",
            f"{name!r} is no name for a source; use 1 to {_NAME_LENGTH} printable characters "
            "without spaces around them",
        )
    if name.startswith("src_"):
        raise _error("NAME", f"{name!r} looks like the id of a source; leave out 'src_'")


def _check_choice(flag: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        nearest = [c for c in choices if c.lower() == value.lower()] or get_close_matches(
            value, choices, n=1, cutoff=0.5
        )
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise _error(flag, f"{value!r} is not one of {', '.join(choices)}{hint}")


def _check_prefix(prefix: str) -> None:
    if not _prefix(prefix):
        raise _error(
            "--topic-prefix",
            f"{prefix!r} cannot start a topic name; Kafka takes a-z, A-Z, 0-9, '.', '_' and '-'",
        )
    longest = max(
        len(resource)
        for resources in (*RESOURCES.values(), [f.resource for f in FAN_OUTS.values()])
        for resource in resources
    )
    if len(prefix) + longest > MAX_TOPIC_LENGTH:
        raise _error(
            "--topic-prefix",
            f"has {len(prefix)} characters; at most {MAX_TOPIC_LENGTH - longest} leave room for "
            f"a resource in Kafka's {MAX_TOPIC_LENGTH}",
        )


def _check_resources(resources: tuple[str, ...], prefix: str) -> None:
    flag = "--schema"
    if not resources:
        raise _error(flag, "is empty; name at least one resource, or '*' for every resource")
    if ALL_RESOURCES in resources:
        if len(resources) > 1:
            raise _error(flag, "has '*' beside other names; '*' alone is every resource")
        return
    _check_unique(flag, resources)
    for resource in resources:
        if not _resource(resource):
            fix = re.sub(r"[^a-z0-9_]+", "_", resource.strip().lower()).strip("_")
            hint = f"; did you mean {fix!r}?" if fix else ""
            raise _error(
                flag,
                f"{resource!r} is no resource: names are of a-z, 0-9 and '_', the first segment "
                f"of an event type{hint}",
            )
        _check_topic(flag, resource, prefix)


def _check_fan_out(fan_out: tuple[str, ...], prefix: str) -> None:
    flag = "--fan-out"
    _check_unique(flag, fan_out)
    for name in fan_out:
        known = FAN_OUTS.get(name)
        if known is None:
            nearest = get_close_matches(name.strip().lower(), FAN_OUTS, n=1, cutoff=0.4)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise _error(
                flag, f"{name!r} cannot be fanned out, only {', '.join(FAN_OUTS)} can{hint}"
            )
        _check_topic(flag, known.resource, prefix)


def _check_topic(flag: str, topic: str, prefix: str) -> None:
    if not topic:
        raise _error(flag, "is blank; give it a topic name")
    if not is_legal_topic(prefix + topic):
        raise _error(
            flag,
            f"Kafka refuses the topic name {prefix + topic!r}; use 1 to {MAX_TOPIC_LENGTH} of "
            "a-z, A-Z, 0-9, '.', '_' and '-', but not '.' or '..'",
        )


def _check_dlq_topic_apart(config: SourceConfig) -> None:
    taken = {config.default_topic, *config.resources}
    taken.update(FAN_OUTS[name].resource for name in config.fan_out)
    if config.dlq_topic in taken:
        raise _error(
            "--dlq-topic",
            f"{config.dlq_topic!r} is also a topic of records; dead letters need one of their own",
        )


def _check_unique(flag: str, names: tuple[str, ...]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise _error(flag, f"names {', '.join(map(repr, repeated))} more than once; once is enough")


def _error(flag: str, message: str) -> ConfigError:
    return ConfigError(f"{flag}: {message}", setting=flag)
