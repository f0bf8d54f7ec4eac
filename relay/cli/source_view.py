"""How a source is shown: its settings, topics, URL and what to be warned about."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from relay.cli.output import say, warn

if TYPE_CHECKING:
    from relay.core.source import SourceConfig
    from relay.settings import Settings
    from relay.store.sources import Source


def view(source: Source) -> dict[str, Any]:
    """A source as it is shown, without its secrets."""
    config = source.config
    return {
        "name": config.name,
        "id": config.public_id,
        "state": state(source),
        "halted_code": source.halted_code,
        "halted_error": source.halted_error,
        "signing_secrets": len(source.sealed_secrets),
        "stripe_api_key": source.sealed_stripe_key is not None,
        "schema": list(config.resources),
        "unselected": config.unselected,
        "default_topic": config.default_topic,
        "metadata": config.metadata,
        "fan_out": list(config.fan_out),
        "dlq": config.dlq,
        "dlq_topic": config.dlq_topic,
        "topic_prefix": config.topic_prefix,
        "route_by": config.route_by,
        "tombstones": config.tombstones,
        "tolerance": config.tolerance,
        "mode": config.mode,
        "insecure": config.insecure,
        "created_at": source.created_at,
        "updated_at": source.updated_at,
        "paused_at": source.paused_at,
        "halted_at": source.halted_at,
        "topics": _topics(config),
        "warnings": _warnings(source),
    }


def _topics(config: SourceConfig) -> list[dict[str, str]]:
    """Where the records of a source go."""
    from relay.core.catalog import ALL_RESOURCES, FAN_OUTS

    topics = []
    if ALL_RESOURCES in config.resources:
        topics.append(("<resource>", "every resource, each in its own topic"))
    topics += [(name, f"{name} objects") for name in config.resources if name != ALL_RESOURCES]
    topics += [(FAN_OUTS[name].resource, f"elements of {name}") for name in config.fan_out]
    if ALL_RESOURCES not in config.resources and config.unselected == "DEFAULT_TOPIC":
        topics.append((config.default_topic, "all other resources"))
    if config.dlq and config.dlq_topic:
        topics.append((config.dlq_topic, "copies of dead letters"))
    return [{"topic": config.topic_prefix + topic, "records": what} for topic, what in topics]


def webhook_url(settings: Settings, public_id: str, key: str | None) -> str:
    """What Stripe is to call; without a key where that is not known any more."""
    base = settings.public_url
    if base is None:
        base = f"http://{settings.bind.from_here}"
    url = f"{base}/webhooks/{public_id}"
    return url if key is None else f"{url}?api_key={key}"


def state(source: Source) -> str:
    """forwarding, paused or halted."""
    if source.halted_at is not None:
        return "halted"
    return "paused" if source.paused_at is not None else "forwarding"


def _warnings(source: Source) -> list[str]:
    name = source.config.name
    warnings = []
    if not source.sealed_secrets:
        warnings.append(
            f"source {name} does not verify signatures: whoever has its URL can forge events"
        )
    if source.halted_at is not None:
        warnings.append(
            f"source {name} has halted ({source.halted_code}: {source.halted_error}):"
            " `relay source resume`, `relay events retry` or `relay events skip`"
        )
    return warnings


def warn_about(source: Source) -> None:
    """Say on stderr what is dangerous or stuck."""
    for warning in _warnings(source):
        warn(warning)


def warn_about_address(settings: Settings) -> None:
    """Say that a URL was made of the address we listen on."""
    if settings.public_url is None:
        warn("RELAY_PUBLIC_URL is not set: the URL is that of this machine, not what Stripe sees")


def write_key(url: str, name: str) -> None:
    """Show a webhook URL with its key, this once."""
    say()
    say(f"  {url}")
    say()
    say("The key in this URL is shown only now: other products keep it readable, relay stores its")
    say("hash. To get another one costs nothing, and the old one stays good for a while:")
    say(f"  relay source rotate-key {shlex.quote(name)}")
    say("Add the URL in Stripe as an endpoint with snapshot payloads. Locally instead:")
    say(f"  stripe listen --all-snapshot --forward-to '{url}'")
