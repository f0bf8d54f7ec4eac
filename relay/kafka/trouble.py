"""Why no broker can be reached, in words that name the setting and the fix.

A request that fails says no more than "broker transport failure". What stands behind it comes by
the client's error callback, in librdkafka's words.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from confluent_kafka import KafkaError

from relay.settings.librdkafka import variable_of

_CERTIFICATE: Final = (
    "the broker wants a client certificate that it trusts: check"
    f" {variable_of('ssl.certificate.location')} and {variable_of('ssl.key.location')}"
)
_PROTOCOL: Final = variable_of("security.protocol")
_MECHANISM: Final = variable_of("sasl.mechanism")
_SERVERS: Final = "RELAY_KAFKA_BOOTSTRAP_SERVERS"

# What the client was told wrongly: it will not mend itself. The first match counts.
_SETTINGS: Final = (
    (
        r"supported mechanisms: *\(",
        f"the listener takes no login: {_PROTOCOL} is SSL or PLAINTEXT there",
    ),
    (
        r"supported mechanisms: *(\S+)",
        rf"the broker does not take this mechanism: set {_MECHANISM} to one of \1",
    ),
    (
        r"SASL authentication error",
        "the broker refuses the login: check"
        f" {variable_of('sasl.username')} and {variable_of('sasl.password')}",
    ),
    (
        r"to a PLAINTEXT broker listener",
        f"the listener does not speak TLS: check {_PROTOCOL} and {_SERVERS}",
    ),
    (
        r"certificate verify failed",
        "the broker's certificate does not hold: it has to be signed by a CA in"
        f" {variable_of('ssl.ca.location')}, be valid today, and name the host as it stands in"
        f" {_SERVERS} and in the broker's advertised.listeners",
    ),
    (r"alert (bad )?certificate|alert unknown ca", _CERTIFICATE),
)
# What may pass by itself.
_AWAY: Final = (
    (r"Failed to resolve", f"no such host: check {_SERVERS}"),
    (r"Connection refused", f"nobody listens there: check {_SERVERS}, and that the brokers run"),
    (r"timed out|timeout", f"no answer: check {_SERVERS}, and firewalls on the way"),
)


class Trouble(msgspec.Struct, frozen=True):
    """One reason. With ``lasting`` only a change of settings, here or there, can end it."""

    said: str
    fix: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.said}; {self.fix}" if self.said else self.fix


class NoBrokerError(ConnectionError):
    """No broker answers; ``trouble`` is why, as far as it is known."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(f"Kafka does not answer: {trouble}")
        self.trouble = trouble


def explain(said: str) -> Trouble | None:
    """What librdkafka says of a connection, explained; None for what tells nothing."""
    # How long it took, and in which state, is different every time.
    said = re.sub(r" \(after \d+ms in state \w+.*$", "", " ".join(said.split()))
    for table, lasting in ((_SETTINGS, True), (_AWAY, False)):
        for pattern, fix in table:
            found = re.search(pattern, f"{said} (" if "mechanisms" in said else said)
            if found is not None:
                return Trouble(said, found.expand(fix), lasting)
    return None


class Troubles:
    """What a client has told of its connections lately; its ``note`` is an error callback."""

    def __init__(self, security_protocol: str | None) -> None:
        self._protocol = (security_protocol or "plaintext").lower()
        self._last: Trouble | None = None

    def note(self, error: KafkaError) -> Trouble | None:
        """Remember it; returns it when it is lasting and news."""
        found = explain(error.str()) if error.code() != KafkaError._ALL_BROKERS_DOWN else None
        before = self._last
        if found is None or (before is not None and before.lasting and not found.lasting):
            return None
        self._last = found
        news = before is None or before.fix != found.fix
        return found if found.lasting and news else None

    def clear(self) -> None:
        """A broker has answered."""
        self._last = None

    @property
    def is_lasting(self) -> bool:
        return self._last is not None and self._last.lasting

    def why(self) -> Trouble:
        """The reason as far as it is known."""
        if self._last is not None:
            return self._last
        # A listener that expects something else just hangs up, and nothing is told about it.
        return Trouble(
            "",
            f"no broker answers: check {_SERVERS}, and whether the listener expects another"
            f" {_PROTOCOL} than {self._protocol}",
        )
