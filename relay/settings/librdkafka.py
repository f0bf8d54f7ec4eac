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
_POINTER = "it cannot be given as text"
_GROUP = "relay joins no consumer group"
_VERSION = "headers and idempotence need the broker's own word on what it can do"
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
    "allow.auto.create.topics": "set RELAY_TOPIC_AUTO_CREATE instead",
    "api.version.request": _VERSION,
    "api.version.fallback.ms": _VERSION,
    "api.version.request.timeout.ms": _VERSION,
    "broker.version.fallback": _VERSION,
    "plugin.library.paths": "a plugin could change what is sent",
    "internal.termination.signal": "it could end or disturb the process",
    "log.queue": "relay takes the client's log by itself",
    "interceptors": _POINTER,
    "opaque": _POINTER,
} | dict.fromkeys(
    (
        *("auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset"),
        *("consume.callback.max.messages", "coordinator.query.interval.ms"),
        *("enable.auto.commit", "enable.auto.offset.store", "enable.partition.eof"),
        *("group.id", "group.instance.id", "group.protocol", "group.protocol.type"),
        *("group.remote.assignor", "heartbeat.interval.ms", "max.poll.interval.ms"),
        *("max.poll.records", "offset.store.method", "offset.store.path"),
        *("offset.store.sync.interval.ms", "partition.assignment.strategy"),
        *("session.timeout.ms", "share.acknowledgement.mode"),
    ),
    _GROUP,
)
"""Properties that would break what relay promises, or do nothing, and why."""

# All others, for a hint when a name is misspelt; never a gate, librdkafka decides. A test holds
# both lists against the properties of the installed one, so that a new one is judged.
ACCEPTED = """
batch.num.messages batch.size broker.address.family broker.address.ttl builtin.features check.crcs
client.dns.lookup client.id client.rack compression.codec compression.level compression.type
connections.max.idle.ms debug enable.metrics.push enable.random.seed
enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification fetch.error.backoff.ms
fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms fetch.wait.max.ms
https.ca.location https.ca.pem isolation.level linger.ms log.connection.close log.thread.name
log_level max.partition.fetch.bytes message.copy.max.bytes metadata.max.age.ms
metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
queue.buffering.backpressure.threshold queue.buffering.max.kbytes queue.buffering.max.messages
queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages receive.message.max.bytes
reconnect.backoff.jitter.ms reconnect.backoff.max.ms reconnect.backoff.ms request.timeout.ms
retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd
sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name
sasl.mechanism sasl.mechanisms sasl.oauthbearer.assertion.algorithm
sasl.oauthbearer.assertion.claim.aud sasl.oauthbearer.assertion.claim.exp.seconds
sasl.oauthbearer.assertion.claim.iss sasl.oauthbearer.assertion.claim.jti.include
sasl.oauthbearer.assertion.claim.nbf.seconds sasl.oauthbearer.assertion.claim.sub
sasl.oauthbearer.assertion.file sasl.oauthbearer.assertion.jwt.template.file
sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.assertion.private.key.passphrase
sasl.oauthbearer.assertion.private.key.pem sasl.oauthbearer.client.credentials.client.id
sasl.oauthbearer.client.credentials.client.secret sasl.oauthbearer.client.id
sasl.oauthbearer.client.secret sasl.oauthbearer.config sasl.oauthbearer.extensions
sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type sasl.oauthbearer.method
sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name sasl.oauthbearer.token.endpoint.url
sasl.password sasl.username security.protocol socket.blocking.max.ms
socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails socket.nagle.disable
socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms ssl.ca.certificate.stores
ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem ssl.cipher.suites
ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.engine.id
ssl.engine.location ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
ssl.keystore.password ssl.providers ssl.sigalgs.list statistics.interval.ms
sticky.partitioning.linger.ms topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms
topic.metadata.refresh.sparse
"""

# Two names of one property each: which of them counts would depend on their order.
_SAME = {
    "compression.type": "compression.codec",
    "linger.ms": "queue.buffering.max.ms",
    "max.partition.fetch.bytes": "fetch.message.max.bytes",
    "sasl.mechanism": "sasl.mechanisms",
    "sasl.oauthbearer.client.credentials.client.id": "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.credentials.client.secret": "sasl.oauthbearer.client.secret",
}

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
        _refuse_both(name, variable_of(key), environ)
    if key in _SAME:
        for other in (variable_of(_SAME[key]), f"{variable_of(_SAME[key])}_FILE"):
            _refuse_both(name, other, environ)
    reason = REFUSED.get(key)
    if key.startswith("test.mock."):
        reason = "records would go to a broker that librdkafka only plays"
    elif key.endswith(".cb"):
        reason = "a callback cannot be given as text"
    if reason is not None:
        raise ConfigError(f"{name} cannot be set: {reason}", setting=name)
    return key, from_file


def _refuse_both(name: str, other: str, environ: Mapping[str, str]) -> None:
    if other in environ:
        raise ConfigError(f"{other} and {name} are both set: keep one of them", setting=name)


def explain(refusal: str) -> ConfigError:
    """What librdkafka says against a property, as an error that names the variable.

    ``refusal`` is its text, which has the name of the property in quotes when it is about one.
    """
    refusal = " ".join(refusal.split())
    unknown = re.search(r'No such configuration property: "([^"]+)"', refusal)
    if unknown is not None:
        name = variable_of(unknown[1])
        near = difflib.get_close_matches(unknown[1], ACCEPTED.split(), 1, 0.6)
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
