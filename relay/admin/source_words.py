"""The fields of a source, as programs and as people know them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from relay.core.errors import ConfigError

FIELDS: Final = {
    "NAME": "name",
    "--schema": "schema",
    "--unselected": "unselected",
    "--default-topic": "default_topic",
    "--metadata": "metadata",
    "--fan-out": "fan_out",
    "--dlq": "dlq",
    "--dlq-topic": "dlq_topic",
    "--topic-prefix": "topic_prefix",
    "--route-by": "route_by",
    "--tombstones": "tombstones",
    "--tolerance": "tolerance",
    "--mode": "mode",
    "--insecure": "insecure",
    "--signing-secret": "signing_secrets",
    "--remove-signing-secret": "remove_signing_secrets",
    "--stripe-api-key": "stripe_api_key",
}
"""By the flags of the command line, which the rules speak of."""

LABELS: Final = {
    "name": "Name",
    "schema": "Resources with a topic of their own",
    "unselected": "What happens to the other resources",
    "default_topic": "Default topic",
    "metadata": "Add metadata",
    "fan_out": "Fan-out",
    "dlq": "Dead letters",
    "dlq_topic": "Topic of dead letters",
    "topic_prefix": "Topic prefix",
    "route_by": "Route by",
    "tombstones": "Tombstones",
    "tolerance": "Signature tolerance",
    "mode": "Mode",
    "insecure": "Take events without a signature",
    "signing_secrets": "Signing secret",
    "remove_signing_secrets": "Last characters of the secret",
    "stripe_api_key": "Stripe API key",
    "reason": "Reason",
}
"""By the fields."""

# What was typed stands in quotes in a message, and stays as it is.
_FLAG: Final = re.compile(r"""('[^']*'|"[^"]*")|(^NAME\b|--[a-z]+(?:-[a-z]+)*)""")


def field_of(error: ConfigError) -> str | None:
    """Which field is wrong."""
    return None if error.setting is None else FIELDS.get(error.setting)


def for_programs(error: ConfigError) -> str:
    """What is wrong, with the fields of the API."""
    return _worded(error.message, lambda field: field)


def for_people(error: ConfigError) -> str:
    """What is wrong, with the labels of the page."""
    return _worded(error.message, label_of)


def label_of(field: str) -> str:
    """The label of a field, in a sentence."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{LABELS[field]}\N{RIGHT DOUBLE QUOTATION MARK}"


def _worded(message: str, word: Callable[[str], str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        field = FIELDS.get(match[0])
        return match[0] if field is None else word(field)

    return _FLAG.sub(replaced, message)
