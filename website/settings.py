"""The page of all settings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping

import msgspec

from relay.kafka import config
from relay.settings import VARIABLES, Settings, Variable, effective, librdkafka, model
from website.markdown import code, codes, prose, table

_INTRO = """# Settings

The environment is the only source of settings. An unknown name that begins with `RELAY_`, or a value that cannot be, stops
the start and is named. `relay doctor` prints the settings in force.
"""
_KAFKA = """
## Kafka

Any property of librdkafka is `RELAY_KAFKA_` and its name in capitals, with underscores for dots:
`RELAY_KAFKA_SECURITY_PROTOCOL` is `security.protocol`. [Security](../security.md) has the set-ups with TLS and SASL.

What the producer is given unless you say otherwise, and what you cannot change:
"""
_REFUSED = """
These stop the start, with the reason:
"""


def page() -> str:
    in_force = effective(Settings())
    told = explanations(model.Settings)
    rows = [
        (code(v.name), prose(told[v.field]), code(in_force[v.name]), wanted(v)) for v in VARIABLES
    ]
    secrets = codes(f"{v.name}_FILE" for v in VARIABLES if v.secret)
    return "\n".join(
        (
            _INTRO,
            table(("variable", "what it does", "default", "accepted"), rows),
            f"A secret may be the content of a file instead: {secrets}; and so may those of Kafka"
            " (`RELAY_KAFKA_SASL_PASSWORD_FILE`, …).\n",
            "Settings of a source are flags of [`relay source`](commands.md#relay-source-create)"
            " and are kept in the database.\n",
            _KAFKA,
            _producer(),
            _REFUSED,
            _refused(),
        )
    )


def explanations(struct: type[msgspec.Struct]) -> Mapping[str, str]:
    """The string behind each field of a class, as it stands in the source."""
    tree = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(tree, ast.ClassDef)
    told = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            told[field.target.id] = str(text.value.value)
    return told


def wanted(variable: Variable) -> str:
    """What the parser says that it wants."""
    for nothing_of_the_kind in ("?", ""):
        try:
            variable.parse(nothing_of_the_kind)
        except ValueError as error:
            text = str(error)
            if text.startswith("must be "):
                return prose(text.removeprefix("must be "))
    return ""


def _producer() -> str:
    fixed = {name for name in librdkafka.REFUSED if name != "bootstrap.servers"}
    used = config.producer({}, Settings().delivery_timeout_seconds)
    return table(
        ("property", "value", "yours to change"),
        (
            (code(name), code(str(value).lower()), "" if name in fixed else "yes")
            for name, value in sorted(used.items())
        ),
    )


def _refused() -> str:
    reasons: dict[str, list[str]] = {}
    for name, reason in librdkafka.REFUSED.items():
        reasons.setdefault(reason, []).append(name)
    return table(("properties", "why"), ((codes(names), why) for why, names in reasons.items()))
