"""The tables of the schema ``relay``; the views over them are in ``migrations/``.

One sequence, ``relay.arrival``, numbers both the rows of the inbox and the places in the queue: a
first delivery stands in the line at its inbox id, a replay draws a new number and so goes to the
end.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from relay.core.routing import LANES

metadata = MetaData(
    schema="relay",
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    },
)

arrival = Sequence("arrival", metadata=metadata, data_type=BigInteger)

Moment = DateTime(timezone=True)


def moment(name: str, *, nullable: bool = True, default_now: bool = False) -> Column[object]:
    return Column(
        name, Moment, nullable=nullable, server_default=func.now() if default_now else None
    )


source = Table(
    "source",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("resources", ARRAY(Text), nullable=False),
    Column("unselected", Text, nullable=False),
    Column("default_topic", Text, nullable=False),
    Column("metadata", Boolean, nullable=False, key="include_metadata"),
    Column("fan_out", ARRAY(Text), nullable=False),
    Column("dlq", Boolean, nullable=False),
    Column("dlq_topic", Text, nullable=False),
    Column("topic_prefix", Text, nullable=False),
    Column("route_by", Text, nullable=False),
    Column("tombstones", Boolean, nullable=False),
    Column("tolerance", Integer, nullable=False),
    Column("mode", Text, nullable=False),
    Column("insecure", Boolean, nullable=False),
    Column("signing_secrets", ARRAY(LargeBinary), nullable=False, comment="encrypted"),
    Column("stripe_api_key", LargeBinary, comment="encrypted"),
    moment("created_at", nullable=False, default_now=True),
    moment("updated_at", nullable=False, default_now=True),
    moment("deleted_at"),
    moment("paused_at"),
    moment("halted_at"),
    Column("halted_code", Text),
    Column("halted_error", Text),
    Column("halted_number", BigInteger, comment="the queue row that the source halted at"),
    CheckConstraint("unselected IN ('DEFAULT_TOPIC', 'SKIP', 'FAIL')", name="unselected"),
    CheckConstraint("route_by IN ('event_type', 'object')", name="route_by"),
    CheckConstraint("mode IN ('any', 'live', 'test')", name="mode"),
    CheckConstraint("tolerance > 0", name="tolerance"),
    CheckConstraint("cardinality(signing_secrets) > 0 OR insecure", name="verified"),
    CheckConstraint(
        "(halted_at IS NULL) = (halted_code IS NULL)"
        " AND (halted_at IS NULL) = (halted_number IS NULL)",
        name="halted",
    ),
    Index(
        "source_name_key",
        "name",
        unique=True,
        postgresql_where=text("deleted_at IS NULL"),
    ),
    comment="One Stripe account (or Connect platform) with its own URL, keys and settings.",
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("source_id", Integer, ForeignKey(source.c.id), nullable=False, index=True),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    moment("created_at", nullable=False, default_now=True),
    moment("expires_at"),
    CheckConstraint("octet_length(sha256) = 32", name="sha256"),
    comment="Keys of the webhook URLs; only their hashes are kept.",
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BigInteger, nullable=False, autoincrement=False),
    moment("received_at", nullable=False),
    Column("source_id", Integer, nullable=False),
    Column("event_id", Text(collation="C"), nullable=False),
    Column("event_type", Text),
    Column("object_type", Text),
    Column("object_id", Text(collation="C")),
    Column("account", Text),
    Column("livemode", Boolean),
    Column("api_version", Text),
    moment("event_created"),
    Column("origin", Text, nullable=False),
    Column("signature_header", Text),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column(
        "xact_id",
        BigInteger,
        nullable=False,
        server_default=text("(pg_current_xact_id()::text)::bigint"),
        comment="the transaction that stored the row",
    ),
    PrimaryKeyConstraint("id", "received_at"),
    CheckConstraint("origin IN ('webhook', 'snapshot', 'reconcile')", name="origin"),
    CheckConstraint("octet_length(body_sha256) = 32", name="body_sha256"),
    # What drivers make of the ends of their calendar, and no count of seconds comes out of.
    CheckConstraint("isfinite(event_created)", name="event_created"),
    # The object first: people and the superseded rule ask for an object, often of any source.
    Index("inbox_object_idx", "object_id", "source_id", "id"),
    # For what has come since some moment: a few bytes per 4 MiB. Smaller ranges would be more than
    # the autovacuum takes note of at thousands of events a second.
    Index(
        "inbox_received_at_idx",
        "received_at",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": "512", "autosummarize": "on"},
    ),
    # For what is to be sealed next, see relay.store.seals; transactions come in this order.
    Index(
        "inbox_xact_id_idx",
        "xact_id",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": "512", "autosummarize": "on"},
    ),
    comment="What was received, byte for byte. Append-only: rows are never updated, but for a body"
    " that is redacted.",
    postgresql_partition_by="RANGE (received_at)",
)

event_key = Table(
    "event_key",
    metadata,
    # The event id first, so that a look-up by event id alone is one probe.
    Column("event_id", Text(collation="C"), nullable=False),
    Column("source_id", Integer, nullable=False),
    Column("inbox_id", BigInteger, nullable=False),
    moment("received_at", nullable=False),
    PrimaryKeyConstraint("event_id", "source_id"),
    # For pruning only; a BRIN index costs the insert nothing and the rows arrive in this order.
    Index("event_key_received_at_idx", "received_at", postgresql_using="brin"),
    comment="Makes an event unique per source across the partitions of the inbox.",
)

lane = Table(
    "lane",
    metadata,
    Column("source_id", Integer, ForeignKey(source.c.id), nullable=False),
    Column("lane", SmallInteger, nullable=False),
    PrimaryKeyConstraint("source_id", "lane"),
    CheckConstraint(f"lane >= 0 AND lane < {LANES}", name="lane"),
    comment="What a forwarder locks: one row per lane of a source. Locked, never updated.",
)

queue = Table(
    "queue",
    metadata,
    Column("source_id", Integer, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("number", BigInteger, nullable=False, comment="the place in the line"),
    Column("inbox_id", BigInteger, nullable=False),
    moment("received_at", nullable=False),
    Column("key_hash", BigInteger, nullable=False, comment="hash of the Kafka key"),
    Column("bytes", Integer, nullable=False, comment="size of the body"),
    Column("kind", SmallInteger, nullable=False, server_default="0"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("crashes", SmallInteger, nullable=False, server_default="0"),
    Column("alone", Boolean, nullable=False, server_default="false"),
    moment("visible_at"),
    Column("last_error_code", Text),
    Column("last_error", Text),
    Column("replay_id", Text),
    PrimaryKeyConstraint("source_id", "lane", "number"),
    # Unique, so that an event can never stand in the line twice.
    Index("queue_inbox_id_key", "inbox_id", "kind", unique=True),
    # Rows that failed or were put aside: the rows of the same key behind them wait for them.
    Index(
        "queue_parked_idx",
        "source_id",
        "lane",
        "key_hash",
        "number",
        postgresql_where=text("visible_at IS NOT NULL"),
    ),
    Index("queue_retrying_idx", "inbox_id", postgresql_where=text("attempts > 0")),
    CheckConstraint(f"lane >= 0 AND lane < {LANES}", name="lane"),
    CheckConstraint("kind IN (0, 1)", name="kind"),
    CheckConstraint("attempts >= 0 AND crashes >= 0", name="counts"),
    CheckConstraint("attempts = 0 OR last_error_code IS NOT NULL", name="reason"),
    comment="One narrow row per unfinished event, deleted when it is settled.",
    # Rows live for milliseconds: vacuum by count, not by a share of a table that is mostly empty.
    postgresql_with={
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "5000",
        "autovacuum_vacuum_insert_scale_factor": "0",
        "autovacuum_vacuum_insert_threshold": "100000",
        "autovacuum_analyze_scale_factor": "0",
        "autovacuum_analyze_threshold": "50000",
        "autovacuum_vacuum_cost_delay": "0",
    },
)

QUEUE_EVENT = 0
QUEUE_DEAD_LETTER_COPY = 1
"""``queue.kind``: the event itself, or the copy of a dead letter for the dead letter topic."""

batch_note = Table(
    "batch_note",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("process_id", Uuid, nullable=False),
    Column("backend_pid", Integer, nullable=False),
    moment("started_at", nullable=False),
    Column("source_ids", ARRAY(Integer), nullable=False),
    Column("lanes", ARRAY(SmallInteger), nullable=False),
    Column("numbers", ARRAY(BigInteger), nullable=False),
    comment="Committed before the first record of a batch is produced, removed when it settles.",
    postgresql_with={
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "1000",
    },
)

receipt = Table(
    "receipt",
    metadata,
    Column("inbox_id", BigInteger, nullable=False),
    moment("received_at", nullable=False),
    Column("number", BigInteger, nullable=False, comment="the queue row that it settles"),
    # An invoice may have more lines than a smallint can count.
    Column("record", Integer, nullable=False, comment="0 is the parent or the skip"),
    Column("kind", SmallInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("partition", Integer),
    Column("offset", BigInteger),
    moment("produced_at", nullable=False),
    Column("topic", Text),
    Column("key", Text),
    Column("op", Text),
    Column("skipped", Text),
    Column("replay_id", Text),
    Index("receipt_inbox_id_idx", "inbox_id"),
    Index("receipt_skipped_idx", "inbox_id", postgresql_where=text("skipped IS NOT NULL")),
    CheckConstraint("kind IN (0, 1)", name="kind"),
    CheckConstraint("record >= 0 AND attempts >= 0", name="counts"),
    CheckConstraint(
        'CASE WHEN skipped IS NULL THEN num_nulls(topic, partition, "offset", key) = 0'
        ' ELSE num_nonnulls(topic, partition, "offset", key, op) = 0 END',
        name="settled",
    ),
    CheckConstraint(
        "skipped IN ('unselected', 'superseded', 'livemode_mismatch', 'discarded', 'redacted')",
        name="skipped",
    ),
    comment="The proof of delivery: one row per acknowledged record, or one that says why not.",
    postgresql_partition_by="RANGE (received_at)",
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("inbox_id", BigInteger, nullable=False, index=True),
    Column("number", BigInteger, nullable=False),
    moment("failed_at", nullable=False, default_now=True),
    Column("error_code", Text, nullable=False),
    Column("error", Text, nullable=False),
    comment="History of the failures of single events; written only when there was one.",
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("source_id", Integer, nullable=False),
    Column("inbox_id", BigInteger, index=True),
    moment("received_at"),
    Column("event_id", Text),
    Column("event_type", Text),
    Column("error_code", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    moment("dead_at", nullable=False, default_now=True),
    moment("replayed_at"),
    moment("discarded_at"),
    Column("refused_body", LargeBinary, comment="sample of a refused request, never an event"),
    Index(
        "dead_letter_open_idx",
        "source_id",
        "error_code",
        "id",
        postgresql_where=text("replayed_at IS NULL AND discarded_at IS NULL"),
    ),
    Index(
        "dead_letter_open_key",
        "inbox_id",
        unique=True,
        postgresql_where=text("replayed_at IS NULL AND discarded_at IS NULL"),
    ),
    CheckConstraint("num_nulls(inbox_id, refused_body) = 1", name="origin"),
    CheckConstraint("num_nulls(inbox_id, received_at, event_id) IN (0, 3)", name="event"),
    CheckConstraint("attempts >= 0", name="attempts"),
    CheckConstraint("num_nulls(replayed_at, discarded_at) >= 1", name="closed_once"),
    comment="Events that will not be retried by themselves, and samples of refused requests.",
)

completeness_check = Table(
    "completeness_check",
    metadata,
    Column("source_id", Integer, ForeignKey(source.c.id), nullable=False),
    moment("hour", nullable=False),
    Column("event_type", Text, nullable=False),
    Column("stripe_count", BigInteger, nullable=False),
    Column("inbox_count", BigInteger, nullable=False),
    Column("delivered_count", BigInteger, nullable=False),
    Column("dead_count", BigInteger, nullable=False),
    Column("missing_count", BigInteger, nullable=False),
    moment("checked_at", nullable=False, default_now=True),
    PrimaryKeyConstraint("source_id", "hour", "event_type"),
    comment="What Stripe's own event list said, hour by hour, beside what the inbox holds.",
)

operator_log = Table(
    "operator_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    moment("at", nullable=False, default_now=True),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("reason", Text),
    Column("details", JSONB),
    comment="Who did what and why. Append-only.",
)

compatibility = Table(
    "compatibility",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default="true"),
    Column("revision", Integer, nullable=False),
    Column("min_compatible", Integer, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("min_compatible <= revision", name="order"),
    comment="The schema's revision and the oldest build revision that may still run on it.",
)
