"""The configuration: ``RELAY_*`` variables read once into one frozen object.

The environment is the only source. Whatever begins with ``RELAY_`` and is not known stops the start
with the nearest known name, because a misspelt limit that is silently ignored is found in an
outage. Every secret ``RELAY_X`` may instead be given as ``RELAY_X_FILE``, the path of a file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from relay.core.errors import ConfigError
from relay.display import HIDDEN
from relay.settings import librdkafka, parsers
from relay.settings.model import Address, Settings

PREFIX = "RELAY_"


class Variable(msgspec.Struct, frozen=True):
    """One ``RELAY_*`` name: the field that it sets and how its text is read."""

    name: str
    field: str
    parse: Callable[[str], object]
    secret: bool = False


VARIABLES: tuple[Variable, ...] = (
    Variable("RELAY_DATABASE_URL", "database_url", parsers.database_url, secret=True),
    Variable("RELAY_KAFKA_BOOTSTRAP_SERVERS", "kafka_bootstrap_servers", parsers.bootstrap_servers),
    Variable("RELAY_ENCRYPTION_KEYS", "encryption_keys", parsers.encryption_keys, secret=True),
    Variable("RELAY_PUBLIC_URL", "public_url", parsers.web_url),
    Variable("RELAY_BIND", "bind", parsers.address),
    Variable("RELAY_ADMIN_BIND", "admin_bind", parsers.address),
    Variable("RELAY_ADMIN_TOKEN", "admin_token", str, secret=True),
    Variable("RELAY_ADMIN_VIEWER_TOKEN", "admin_viewer_token", str, secret=True),
    Variable("RELAY_ADMIN_HIDE_BODIES", "admin_hide_bodies", parsers.boolean),
    Variable("RELAY_STRIPE_SOURCE_ADDRESSES", "stripe_source_addresses", parsers.networks),
    Variable("RELAY_STRIPE_SOURCE_ADDRESSES_FILE", "stripe_source_addresses_file", Path),
    Variable("RELAY_TRUSTED_PROXIES", "trusted_proxies", parsers.networks),
    Variable("RELAY_STRIPE_API_BASE", "stripe_api_base", parsers.web_url),
    Variable("RELAY_STRIPE_RATE_SHARE", "stripe_rate_share", parsers.share),
    Variable("RELAY_STRIPE_TIMEOUT_SECONDS", "stripe_timeout_seconds", parsers.seconds(0.1)),
    Variable("RELAY_SNAPSHOT_CONNECTIONS", "snapshot_connections", parsers.whole(1, 64)),
    Variable("RELAY_SNAPSHOT_QUEUE_ROWS", "snapshot_queue_rows", parsers.whole(1, 10_000_000)),
    Variable("RELAY_TOPIC_AUTO_CREATE", "topic_auto_create", parsers.boolean),
    Variable("RELAY_TOPIC_PARTITIONS", "topic_partitions", parsers.whole(1, 10_000)),
    Variable(
        "RELAY_TOPIC_REPLICATION_FACTOR", "topic_replication_factor", parsers.replication_factor
    ),
    Variable("RELAY_RETENTION_DAYS", "retention_days", parsers.whole(0, 36_500)),
    Variable("RELAY_MAX_BODY_BYTES", "max_body_bytes", parsers.whole(1024, 512 * 1024 * 1024)),
    Variable("RELAY_BYTES_IN_FLIGHT", "bytes_in_flight", parsers.whole(1024, 2**40)),
    Variable("RELAY_HEADER_TIMEOUT_SECONDS", "header_timeout_seconds", parsers.seconds(0.1)),
    Variable("RELAY_BODY_TIMEOUT_SECONDS", "body_timeout_seconds", parsers.seconds(0.1)),
    Variable("RELAY_FORWARDER_CONNECTIONS", "forwarder_connections", parsers.whole(1, 64)),
    Variable("RELAY_BATCH_ROWS", "batch_rows", parsers.whole(1, 10_000)),
    Variable("RELAY_BATCH_BYTES", "batch_bytes", parsers.whole(1024, 2**30)),
    Variable("RELAY_BATCH_TIMEOUT_SECONDS", "batch_timeout_seconds", parsers.seconds(0.1)),
    Variable("RELAY_DELIVERY_TIMEOUT_SECONDS", "delivery_timeout_seconds", parsers.seconds(0.1)),
    Variable("RELAY_FENCE_MARGIN_SECONDS", "fence_margin_seconds", parsers.seconds(0.1)),
    Variable("RELAY_FROZEN_AFTER_SECONDS", "frozen_after_seconds", parsers.seconds(0.1)),
    Variable("RELAY_PROBE_SECONDS", "probe_seconds", parsers.seconds(0.1)),
    Variable("RELAY_MAX_ATTEMPTS", "max_attempts", parsers.whole(1, 10_000)),
    Variable("RELAY_BACKOFF_BASE_SECONDS", "backoff_base_seconds", parsers.seconds(0.001)),
    Variable("RELAY_BACKOFF_CAP_SECONDS", "backoff_cap_seconds", parsers.seconds(0.001)),
    Variable("RELAY_DATABASE_TIMEOUT_SECONDS", "database_timeout_seconds", parsers.seconds(1)),
    Variable("RELAY_DRAIN_SECONDS", "drain_seconds", parsers.seconds(0)),
    Variable("RELAY_LOG_FORMAT", "log_format", parsers.one_of("console", "json")),
    Variable("RELAY_LOG_LEVEL", "log_level", parsers.one_of("debug", "info", "warning", "error")),
)
BY_NAME: Mapping[str, Variable] = {v.name: v for v in VARIABLES} | {
    f"{v.name}_FILE": v for v in VARIABLES if v.secret
}
# What other products call it.
_OFTEN_MEANT = {
    "RELAY_HOST": "RELAY_BIND",
    "RELAY_PORT": "RELAY_BIND",
    "RELAY_ADMIN_PORT": "RELAY_ADMIN_BIND",
}


def load(environ: Mapping[str, str]) -> Settings:
    """Read the ``RELAY_*`` variables of ``environ``.

    Raises ``ConfigError``, whose text names the variable and what to do about it.
    """
    values: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        variable = BY_NAME.get(name)
        if variable is not None:
            if name != variable.name and variable.name in environ:
                raise ConfigError(
                    f"{variable.name} and {name} are both set: keep one of them", setting=name
                )
            text = _text(name, environ[name], from_file=name != variable.name)
            values[variable.field] = _parse(variable, name, text)
        elif _is_service_link(name, environ[name]):
            continue
        elif name.startswith(librdkafka.PREFIX):
            key, from_file = librdkafka.property_of(name, environ)
            properties[key] = _text(name, environ[name], from_file=from_file)
        else:
            raise ConfigError(f"{name} is not a setting of relay{_nearest(name)}", setting=name)
    settings = Settings(**values, kafka_properties=properties)
    _cross_check(settings)
    return settings


def effective(settings: Settings) -> dict[str, str]:
    """Variable names and their values in force, secrets hidden, for people to read."""
    shown: dict[str, str] = {}
    for variable in VARIABLES:
        value = getattr(settings, variable.field)
        if value is None or value == ():
            shown[variable.name] = ""
        elif variable.field == "database_url":
            shown[variable.name] = hide_password(value)
        elif variable.secret:
            shown[variable.name] = HIDDEN
        elif isinstance(value, bool):
            shown[variable.name] = str(value).lower()
        elif isinstance(value, tuple):
            shown[variable.name] = ",".join(map(str, value))
        else:
            shown[variable.name] = f"{value:g}" if isinstance(value, float) else str(value)
    for key, value in sorted(settings.kafka_properties.items()):
        shown[librdkafka.variable_of(key)] = HIDDEN if librdkafka.is_secret(key) else value
    return shown


def hide_password(url: str) -> str:
    """A libpq URL without its passwords, fit to be shown."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    query = [
        (key, HIDDEN if "password" in key.lower() else value)
        for key, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    shown = f"{parts.scheme}://{user}{colon}{HIDDEN if colon else ''}{at}{hosts}{parts.path}"
    return f"{shown}?{urlencode(query, safe='()/,')}" if query else shown


def _text(name: str, raw: str, *, from_file: bool) -> str:
    if not raw.strip():
        raise ConfigError(f"{name} is set but blank: give it a value or unset it", setting=name)
    if not from_file:
        return raw.strip()
    try:
        text = Path(raw).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{name}: cannot read {raw!r}: {reason}", setting=name) from error
    if not text:
        raise ConfigError(f"{name}: the file {raw!r} is blank", setting=name)
    return text


def _parse(variable: Variable, name: str, text: str) -> object:
    try:
        return variable.parse(text)
    except ValueError as error:
        given = "" if variable.secret else f", not {text!r}"
        # Without its cause, whose text may carry a secret.
        raise ConfigError(f"{name} {error}{given}", setting=name) from None


def _nearest(name: str) -> str:
    # Without the common prefix, which makes everything look alike.
    known = [*BY_NAME, *_OFTEN_MEANT]
    endings = {other.removeprefix(PREFIX): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(PREFIX), endings, 1, 0.6)
    if not near:
        return ""
    return f": did you mean {_OFTEN_MEANT.get(endings[near[0]], endings[near[0]])}?"


_SERVICE_LINKS = {
    r"SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)": "",
    r"PORT": r"(tcp|udp|sctp)://",
    r"PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?": "",
}
"""How such a name ends and how its value begins."""


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes put the variable there for a service called relay or relay-something.

    See "Accessing the Service" in the Kubernetes documentation: docker links and
    ``{SVC}_SERVICE_HOST``.
    """
    return any(
        re.fullmatch(rf"RELAY_([A-Z0-9_]+_)?{ending}", name) and re.match(start, value)
        for ending, start in _SERVICE_LINKS.items()
    )


def _cross_check(settings: Settings) -> None:
    """What two settings must agree on."""
    fence = settings.delivery_timeout_seconds + settings.fence_margin_seconds
    agreements = {
        "RELAY_ADMIN_TOKEN is required when RELAY_ADMIN_BIND can be reached from other machines:"
        " set it, or bind to 127.0.0.1": settings.admin_bind.is_loopback
        or settings.admin_token is not None,
        "RELAY_ADMIN_VIEWER_TOKEN needs RELAY_ADMIN_TOKEN beside it: without that everybody is an"
        " operator": settings.admin_viewer_token is None or settings.admin_token is not None,
        "RELAY_ADMIN_VIEWER_TOKEN must differ from RELAY_ADMIN_TOKEN: viewers would be operators": (
            settings.admin_viewer_token is None
            or settings.admin_viewer_token != settings.admin_token
        ),
        "RELAY_BYTES_IN_FLIGHT must not be below RELAY_MAX_BODY_BYTES: the largest body would"
        " never be accepted": settings.max_body_bytes <= settings.bytes_in_flight,
        "RELAY_BATCH_TIMEOUT_SECONDS must not be below RELAY_DELIVERY_TIMEOUT_SECONDS: batches"
        " would end before it is known which records failed": settings.delivery_timeout_seconds
        <= settings.batch_timeout_seconds,
        "RELAY_FROZEN_AFTER_SECONDS must be above RELAY_BATCH_TIMEOUT_SECONDS: a slow batch would"
        " be taken for a frozen one": settings.batch_timeout_seconds
        < settings.frozen_after_seconds,
        "RELAY_FROZEN_AFTER_SECONDS must not be below RELAY_DELIVERY_TIMEOUT_SECONDS plus"
        " RELAY_FENCE_MARGIN_SECONDS: late records could overtake newer ones": fence
        <= settings.frozen_after_seconds,
        "RELAY_STRIPE_SOURCE_ADDRESSES and RELAY_STRIPE_SOURCE_ADDRESSES_FILE are both set:"
        " keep one of them": not settings.stripe_source_addresses
        or settings.stripe_source_addresses_file is None,
        "RELAY_STRIPE_TIMEOUT_SECONDS must be two seconds below RELAY_FROZEN_AFTER_SECONDS: a slow"
        " answer of Stripe would be taken for a frozen process": settings.stripe_timeout_seconds + 2
        <= settings.frozen_after_seconds,
        "RELAY_BACKOFF_CAP_SECONDS must not be below RELAY_BACKOFF_BASE_SECONDS": (
            settings.backoff_base_seconds <= settings.backoff_cap_seconds
        ),
    }
    for message, holds in agreements.items():
        if not holds:
            raise ConfigError(message, setting=message.partition(" ")[0])


__all__ = ["Address", "Settings", "effective", "hide_password", "load"]
