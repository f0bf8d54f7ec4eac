"""How a source is shown: its settings, topics, URL and what to be warned about."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import msgspec

from relay.cli.output import say, warn

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.store.sources import Source


def view(source: Source) -> dict[str, Any]:
    """A source as it is shown, without its secrets."""
    from relay.core.source import topics_of

    config = source.config
    return {
        "name": config.name,
        "id": config.public_id,
        "state": source.state,
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
        "topics": [msgspec.structs.asdict(each) for each in topics_of(config)],
        "warnings": _warnings(source),
    }


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
