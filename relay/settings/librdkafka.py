"""``RELAY_KAFKA_*``: any librdkafka property by its name in capitals, the harmful ones excepted.

Which properties exist is librdkafka's to say when the client is made (its CONFIGURATION.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from relay.core.errors import ConfigError

PREFIX = "RELAY_KAFKA_"

_ORDER = "relay needs its own value: records of one key would swap"
_LOSS = "relay needs its own value: a record counts as delivered only when all replicas have it"
_TIMEOUT = "set RELAY_DELIVERY_TIMEOUT_SECONDS instead: the fencing of dead forwarders hangs on it"
_RETRIES = "a record is retried until RELAY_DELIVERY_TIMEOUT_SECONDS, and its event for ever"
_TRANSACTION = "relay does not use transactions: delivery is at least once"
_REPORTS = "relay settles an event on its delivery report"
REFUSED: Mapping[str, str] = {
    "acks": _LOSS,
    "request.required.acks": _LOSS,
    "enable.idempotence": _ORDER,
    "max.in.flight": _ORDER,
    "max.in.flight.requests.per.connection": _ORDER,
    "queuing.strategy": _ORDER,
    "enable.gapless.guarantee": "one record that fails would stop all others",
    "partitioner": "records would leave the partitions that Java clients expect (murmur2_random)",
    "message.timeout.ms": _TIMEOUT,
    "delivery.timeout.ms": _TIMEOUT,
    "retries": _RETRIES,
    "message.send.max.retries": _RETRIES,
    "transactional.id": _TRANSACTION,
    "transaction.timeout.ms": _TRANSACTION,
    "delivery.report.only.error": _REPORTS,
    "produce.offset.report": _REPORTS,
    "message.max.bytes": "the topic's own limit decides, and the broker gives the verdict",
    "topic.blacklist": "records for such a topic would wait for ever",
    "metadata.broker.list": "set RELAY_KAFKA_BOOTSTRAP_SERVERS instead",
}
"""Properties that would break what relay promises, and why."""

# What people set, for a hint when a name is misspelt; never a gate, librdkafka decides.
_KNOWN = """
allow.auto.create.topics batch.num.messages batch.size broker.address.family broker.address.ttl
client.id client.rack client.dns.lookup compression.codec compression.level compression.type
connections.max.idle.ms debug enable.metrics.push enable.sasl.oauthbearer.unsecure.jwt
enable.ssl.certificate.verification https.ca.location linger.ms log.connection.close log_level
message.copy.max.bytes metadata.max.age.ms metadata.recovery.strategy queue.buffering.max.kbytes
queue.buffering.max.messages queue.buffering.max.ms receive.message.max.bytes
reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms retry.backoff.max.ms
retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd sasl.kerberos.principal
sasl.kerberos.service.name sasl.mechanism sasl.mechanisms sasl.oauthbearer.client.id
sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
sasl.oauthbearer.method sasl.oauthbearer.scope sasl.oauthbearer.token.endpoint.url sasl.password
sasl.username security.protocol socket.connection.setup.timeout.ms socket.keepalive.enable
socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes
socket.timeout.ms ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location
ssl.certificate.pem ssl.cipher.suites ssl.crl.location ssl.curves.list
ssl.endpoint.identification.algorithm ssl.key.location ssl.key.password ssl.key.pem
ssl.keystore.location ssl.keystore.password ssl.providers ssl.sigalgs.list statistics.interval.ms
topic.metadata.refresh.interval.ms
"""

# The only property with an underscore in its name that a text can set.
_WITH_UNDERSCORE = {"log.level": "log_level"}
_SECRET = re.compile(
    r"password|secret|passphrase|jaas|\.pem$|^sasl\.username$|^sasl\.oauthbearer\.config$"
)
_PUBLIC_PEM = frozenset({"ssl.ca.pem", "ssl.certificate.pem", "https.ca.pem"})


def is_secret(key: str) -> bool:
    """Whether the value of this property must never be shown."""
    return key not in _PUBLIC_PEM and _SECRET.search(key) is not None


def variable_of(key: str) -> str:
    """The environment variable that sets the property ``key``."""
    return PREFIX + key.upper().replace(".", "_")


def property_of(name: str, environ: Mapping[str, str]) -> tuple[str, bool]:
    """The property that the variable ``name`` sets, and whether its value is the path of a file.

    Raises ``ConfigError`` for a property that relay keeps to itself.
    """
    key = name.removeprefix(PREFIX).lower().replace("_", ".")
    key = _WITH_UNDERSCORE.get(key, key)
    owner = key.removesuffix(".file")
    # librdkafka has properties of its own that end in ".file", but none of them names a secret.
    from_file = owner != key and is_secret(owner)
    if from_file:
        key = owner
        if variable_of(key) in environ:
            raise ConfigError(
                f"{variable_of(key)} and {name} are both set: keep one of them", setting=name
            )
    reason = REFUSED.get(key)
    if key.startswith("test.mock."):
        reason = "records would go to a broker that librdkafka only plays"
    elif key.endswith(".cb"):
        reason = "a callback cannot be given as text"
    if reason is not None:
        raise ConfigError(f"{name} cannot be set: {reason}", setting=name)
    return key, from_file


def explain(refusal: str) -> ConfigError:
    """What librdkafka says against a property, as an error that names the variable.

    ``refusal`` is its text, which has the name of the property in quotes when it is about one.
    """
    refusal = " ".join(refusal.split())
    unknown = re.search(r'No such configuration property: "([^"]+)"', refusal)
    if unknown is not None:
        name = variable_of(unknown[1])
        near = difflib.get_close_matches(unknown[1], _KNOWN.split(), 1, 0.6)
        hint = f": did you mean {variable_of(near[0])}?" if near else ""
        return ConfigError(f"{name}: librdkafka has no such property{hint}", setting=name)
    about = re.search(r'onfiguration property "([^"]+)"', refusal)
    if about is not None:
        name = variable_of(about[1])
        return ConfigError(f"{name}: {refusal}", setting=name)
    # A file that it could not use: "ssl.ca.location failed: …".
    about = re.search(r"\b((?:ssl|sasl|https)\.[a-z.]+[a-z]) failed", refusal)
    if about is not None:
        name = variable_of(about[1])
        hint = " (is the file there, readable and in PEM?)" if "location" in about[1] else ""
        return ConfigError(f"{name}: {refusal}{hint}", setting=name)
    return ConfigError(f"RELAY_KAFKA_…: {refusal}")
