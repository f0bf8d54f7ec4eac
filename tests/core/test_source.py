"""What is wrong with the settings of a source, said so that they can be put right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relay.core.catalog import FAN_OUTS, RESOURCES
from relay.core.errors import ConfigError
from relay.core.source import MAX_TOLERANCE, SourceConfig, validate
from tests.core.builders import source

ALL = tuple(resource for resources in RESOURCES.values() for resource in resources)


def test_the_defaults_of_the_contract() -> None:
    assert msgspec.structs.asdict(source()) == {
        "source_id": 1,
        "public_id": "src_1",
        "name": "main",
        "resources": ("customer", "payment_intent", "charge", "invoice"),
        "unselected": "DEFAULT_TOPIC",
        "default_topic": "unknown",
        "metadata": True,
        "fan_out": (),
        "dlq": True,
        "dlq_topic": "dead_letter",
        "topic_prefix": "",
        "route_by": "event_type",
        "tombstones": False,
        "tolerance": 300,
        "mode": "any",
        "insecure": False,
    }


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": "Küche 厨房 1"},
        {"resources": ("*",)},
        {"resources": ALL},
        {"resources": ("checkout_session", "some_day_2027"), "route_by": "object"},
        {"unselected": "SKIP"},
        {"unselected": "FAIL"},
        {"default_topic": "Rest.of-it_1"},
        {"default_topic": "customer"},
        {"fan_out": tuple(FAN_OUTS)},
        {"dlq": False},
        {"dlq_topic": ""},
        {"topic_prefix": "prod.stripe-eu_"},
        {"topic_prefix": "."},
        {"topic_prefix": "x" * (249 - len("subscription_schedule"))},
        {"tolerance": 1},
        {"tolerance": MAX_TOLERANCE},
        {"mode": "live"},
        {"mode": "test"},
        {"insecure": True},
    ],
)
def test_what_is_right(settings: dict[str, Any]) -> None:
    validate(source(**settings))


@pytest.mark.parametrize(
    ("settings", "flag", "hint"),
    [
        ({"name": ""}, "NAME", "1 to 100"),
        ({"name": " main"}, "NAME", "without spaces around"),
        ({"name": "a\nb"}, "NAME", "printable"),
        ({"name": "x" * 101}, "NAME", "1 to 100"),
        ({"name": "src_1"}, "NAME", "looks like the id"),
        ({"resources": ()}, "--schema", "'*' for every resource"),
        ({"resources": ("*", "charge")}, "--schema", "'*' alone"),
        ({"resources": ("charge", "invoice", "charge")}, "--schema", "'charge' more than once"),
        ({"resources": ("charge", "")}, "--schema", "''"),
        ({"resources": ("Charge",)}, "--schema", "did you mean 'charge'?"),
        ({"resources": ("payment intent",)}, "--schema", "did you mean 'payment_intent'?"),
        ({"resources": ("payment-intent",)}, "--schema", "did you mean 'payment_intent'?"),
        ({"resources": ("checkout.session",)}, "--schema", "did you mean 'checkout_session'?"),
        ({"resources": ("größe",)}, "--schema", "a-z, 0-9"),
        ({"resources": ("é",)}, "--schema", "a-z, 0-9"),
        ({"resources": ("x" * 250,)}, "--schema", "Kafka refuses"),
        ({"resources": ("x" * 249,), "topic_prefix": "p"}, "--schema", "Kafka refuses"),
        ({"unselected": "skip"}, "--unselected", "did you mean 'SKIP'?"),
        ({"unselected": "DEFAULT"}, "--unselected", "did you mean 'DEFAULT_TOPIC'?"),
        ({"unselected": "zzz"}, "--unselected", "one of DEFAULT_TOPIC, SKIP, FAIL"),
        ({"default_topic": ""}, "--default-topic", "is blank"),
        ({"default_topic": " "}, "--default-topic", "Kafka refuses"),
        ({"default_topic": "a/b"}, "--default-topic", "'a/b'"),
        ({"default_topic": ".."}, "--default-topic", "not '.' or '..'"),
        ({"default_topic": ".", "topic_prefix": "."}, "--default-topic", "'..'"),
        ({"default_topic": "x" * 250}, "--default-topic", "1 to 249"),
        ({"fan_out": ("invoice.line",)}, "--fan-out", "did you mean 'invoice.lines'?"),
        ({"fan_out": ("Charge.Refunds",)}, "--fan-out", "did you mean 'charge.refunds'?"),
        ({"fan_out": ("zzz",)}, "--fan-out", "only invoice.lines, charge.refunds, sub"),
        ({"fan_out": ("invoice.lines",) * 2}, "--fan-out", "more than once"),
        ({"dlq_topic": "a b"}, "--dlq-topic", "'a b'"),
        ({"dlq_topic": "unknown"}, "--dlq-topic", "also a topic of records"),
        ({"dlq_topic": "charge"}, "--dlq-topic", "also a topic of records"),
        (
            {"dlq_topic": "invoice_lines", "fan_out": ("invoice.lines",)},
            "--dlq-topic",
            "also a topic of records",
        ),
        ({"topic_prefix": "a/"}, "--topic-prefix", "'a/'"),
        ({"topic_prefix": "ä"}, "--topic-prefix", "Kafka takes"),
        ({"topic_prefix": "a\n"}, "--topic-prefix", "Kafka takes"),
        ({"topic_prefix": "x" * 229}, "--topic-prefix", "at most 228"),
        ({"tolerance": 0}, "--tolerance", "between 1 and"),
        ({"tolerance": -1}, "--tolerance", "the default is 300"),
        ({"tolerance": MAX_TOLERANCE + 1}, "--tolerance", "between 1 and"),
        ({"mode": "lvie"}, "--mode", "did you mean 'live'?"),
        ({"mode": "LIVE"}, "--mode", "did you mean 'live'?"),
        ({"route_by": "objects"}, "--route-by", "did you mean 'object'?"),
    ],
)
def test_what_is_wrong(settings: dict[str, Any], flag: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(source(**settings))
    assert raised.value.setting == flag
    assert raised.value.message.startswith(flag + ": ")
    assert hint in raised.value.message


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        source().mode = "live"  # type: ignore[misc]


def test_a_config_takes_names_only() -> None:
    with pytest.raises(TypeError):
        SourceConfig(1, "src_1", "main")  # type: ignore[misc]
