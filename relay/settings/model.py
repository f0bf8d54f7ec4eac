"""The configuration as one frozen object."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from relay.core.errors import ConfigError
from relay.settings import librdkafka, postgres

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Address(msgspec.Struct, frozen=True):
    """Where a server listens. Port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def from_here(self) -> Address:
        """The same, as it is reached from this machine: every interface is not an address."""
        everywhere = self.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
        return Address("localhost", self.port) if everywhere else self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration. Sizes are in bytes and time-outs in seconds."""

    database_url: str | None = None
    """The inbox, as a libpq URL; several hosts are allowed."""
    kafka_bootstrap_servers: str | None = None
    """Brokers to begin with, as HOST:PORT[,HOST:PORT…]."""
    kafka_properties: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Further librdkafka properties by their own names; unknown ones are refused at start."""
    encryption_keys: tuple[str, ...] = ()
    """For signing secrets and Stripe keys: the first encrypts, all decrypt."""
    public_url: str | None = None
    """What Stripe reaches the receiver at, without a slash at its end."""
    bind: Address = Address("127.0.0.1", 8080)
    """Where the receiver listens."""
    admin_bind: Address = Address("127.0.0.1", 8081)
    """Where health, metrics and, with the role admin, the dashboard and the API listen."""
    admin_token: str | None = None
    """The operator's, for the dashboard and the API; required when others than this machine can
    reach the admin port. Without one, whoever reaches it is an operator."""
    admin_viewer_token: str | None = None
    """For those who may look at the dashboard and the API, and change nothing."""
    admin_hide_bodies: bool = False
    """Show the dashboard's and the API's bodies to nobody; otherwise operators see them."""
    stripe_source_addresses: tuple[Network, ...] = ()
    """Where webhooks may come from; empty lets everybody try."""
    stripe_source_addresses_file: Path | None = None
    """The same in a file, which is read again when it changes."""
    trusted_proxies: tuple[Network, ...] = ()
    """Whose X-Forwarded-For is believed when a webhook's address is looked at."""
    stripe_api_base: str = "https://api.stripe.com"
    """Where snapshots ask; a proxy or a fake."""
    stripe_rate_share: float = 0.5
    """How much of Stripe's rate limits snapshots may use; the account's own requests have them too.
    """
    stripe_timeout_seconds: float = 15.0
    """How long one request to Stripe may take, to the last byte of the answer."""
    snapshot_connections: int = 8
    """Pages that one process asks for at once."""
    snapshot_queue_rows: int = 5000
    """Claimable events in the queue, about a second's work, above which snapshots pause."""
    topic_auto_create: bool = True
    """Make topics that are missing."""
    topic_partitions: int = 6
    """Of the topics that are made."""
    topic_replication_factor: int = -1
    """Of the topics that are made; -1 leaves it to the broker."""
    retention_days: int = 0
    """How long finished events are kept, at least; 0 keeps everything."""

    max_body_bytes: int = 50 * 1024 * 1024
    """A larger webhook is answered 413."""
    bytes_in_flight: int = 256 * 1024 * 1024
    """Bodies that one receiver process holds at once before it answers 503."""
    header_timeout_seconds: float = 30.0
    """A connection whose headers are not complete by then is closed."""
    body_timeout_seconds: float = 30.0
    """A webhook whose body is not complete by then is answered 408."""

    forwarder_connections: int = 3
    """Batches that one process has in hand at once."""
    batch_rows: int = 1000
    """The most events of a batch."""
    batch_bytes: int = 16 * 1024 * 1024
    """The most bytes of a batch, unless it is a single event."""
    batch_timeout_seconds: float = 20.0
    """When a batch settles what was acknowledged and puts the rest aside."""
    delivery_timeout_seconds: float = 10.0
    """How long the Kafka client tries one record."""
    fence_margin_seconds: float = 5.0
    """How long after its last possible record the lanes of a dead batch rest."""
    frozen_after_seconds: float = 30.0
    """The age at which a batch counts as frozen and its connection is ended by others."""
    probe_seconds: float = 60.0
    """How often what Kafka refuses is tried again."""
    max_attempts: int = 20
    """Failures of its own after which an event is dead."""
    backoff_base_seconds: float = 1.0
    """The most that an event waits after its first failure; doubled by each further one."""
    backoff_cap_seconds: float = 600.0
    """The most that it ever waits."""
    drain_seconds: float = 25.0
    """What SIGTERM leaves for the work in flight."""
    database_timeout_seconds: float = 60.0
    """After this long in one transaction of a service its connection is cut: the server hangs."""

    log_format: Literal["console", "json"] | None = None
    """None: console on a terminal, JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""

    def __repr__(self) -> str:
        """Without its values: many are secrets, and a repr ends up in logs and tracebacks."""
        return "Settings(…)"

    def webhook_url(self, public_id: str, key: str | None) -> str:
        """What Stripe is to call; without a key where that is not known any more."""
        base = self.public_url or f"http://{self.bind.from_here}"
        url = f"{base}/webhooks/{public_id}"
        return url if key is None else f"{url}?api_key={key}"

    @property
    def database_pool_size(self) -> int:
        """The connections to PostgreSQL that a process with all roles keeps."""
        # Per forwarder one that claims and one for its note, per reader of a snapshot one that
        # holds its range; the rest in their turn.
        return self.forwarder_connections * 2 + self.snapshot_connections + 6

    def require_database_url(self) -> str:
        """The database, for the commands that need one (all but a few)."""
        if self.database_url is None:
            raise ConfigError(
                "RELAY_DATABASE_URL is not set: give a libpq URL such as"
                " postgresql://user@host/name, or start `relay dev` in this directory",
                setting="RELAY_DATABASE_URL",
            )
        return self.database_url

    def require_kafka(self) -> str:
        """The bootstrap servers, for the commands that speak to Kafka."""
        if self.kafka_bootstrap_servers is None:
            given = [librdkafka.variable_of(name) for name in self.kafka_properties]
            near = difflib.get_close_matches("RELAY_KAFKA_BOOTSTRAP_SERVERS", given, 1, 0.8)
            raise ConfigError(
                f"RELAY_KAFKA_BOOTSTRAP_SERVERS is not set (is {near[0]} meant to be it?)"
                if near
                else "RELAY_KAFKA_BOOTSTRAP_SERVERS is not set: give HOST:PORT[,HOST:PORT…]",
                setting="RELAY_KAFKA_BOOTSTRAP_SERVERS",
            )
        return self.kafka_bootstrap_servers

    def secrets(self) -> tuple[str, ...]:
        """Every secret value, so that the logs can hide it wherever it turns up."""
        tokens = (self.admin_token, self.admin_viewer_token)
        found = [value for value in (self.database_url, *tokens) if value]
        if self.database_url:
            found += postgres.secrets_of(self.database_url)
        found += self.encryption_keys
        found += [v for k, v in self.kafka_properties.items() if librdkafka.is_secret(k)]
        return tuple(found)
