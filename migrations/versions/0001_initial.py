"""The schema of the first release."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import op
from sqlalchemy import AdaptedConnection
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE SEQUENCE relay.arrival AS bigint")
    op.create_table(
        "attempt",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("inbox_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column(
            "failed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("attempt_pkey")),
        schema="relay",
        comment="History of the failures of single events; written only when there was one.",
    )
    op.create_index(
        op.f("attempt_inbox_id_idx"), "attempt", ["inbox_id"], unique=False, schema="relay"
    )
    op.create_table(
        "batch_note",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("process_id", sa.Uuid(), nullable=False),
        sa.Column("backend_pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("lanes", postgresql.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("numbers", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("batch_note_pkey")),
        schema="relay",
        comment="Committed before the first record of a batch is produced, removed when it settles.",
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0",
            "autovacuum_vacuum_threshold": "1000",
        },
    )
    op.create_table(
        "compatibility",
        sa.Column("singleton", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("min_compatible", sa.Integer(), nullable=False),
        sa.CheckConstraint("min_compatible <= revision", name=op.f("compatibility_order_check")),
        sa.CheckConstraint("singleton", name=op.f("compatibility_singleton_check")),
        sa.PrimaryKeyConstraint("singleton", name=op.f("compatibility_pkey")),
        schema="relay",
        comment="The schema's revision and the oldest build revision that may still run on it.",
    )
    op.create_table(
        "dead_letter",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("inbox_id", sa.BigInteger(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column(
            "dead_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("discarded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "refused_body",
            sa.LargeBinary(),
            nullable=True,
            comment="sample of a refused request, never an event",
        ),
        sa.CheckConstraint(
            "num_nulls(inbox_id, refused_body) = 1", name=op.f("dead_letter_origin_check")
        ),
        sa.CheckConstraint(
            "num_nulls(inbox_id, received_at, event_id) IN (0, 3)",
            name=op.f("dead_letter_event_check"),
        ),
        sa.CheckConstraint("attempts >= 0", name=op.f("dead_letter_attempts_check")),
        sa.CheckConstraint(
            "num_nulls(replayed_at, discarded_at) >= 1", name=op.f("dead_letter_closed_once_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("dead_letter_pkey")),
        schema="relay",
        comment="Events that will not be retried by themselves, and samples of refused requests.",
    )
    op.create_index(
        op.f("dead_letter_inbox_id_idx"), "dead_letter", ["inbox_id"], unique=False, schema="relay"
    )
    op.create_index(
        "dead_letter_open_idx",
        "dead_letter",
        ["source_id", "error_code", "id"],
        unique=False,
        schema="relay",
        postgresql_where=sa.text("replayed_at IS NULL AND discarded_at IS NULL"),
    )
    op.create_index(
        "dead_letter_open_key",
        "dead_letter",
        ["inbox_id"],
        unique=True,
        schema="relay",
        postgresql_where=sa.text("replayed_at IS NULL AND discarded_at IS NULL"),
    )
    op.create_table(
        "event_key",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("inbox_id", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id", "source_id", name=op.f("event_key_pkey")),
        schema="relay",
        comment="Makes an event unique per source across the partitions of the inbox.",
    )
    op.create_index(
        "event_key_received_at_idx",
        "event_key",
        ["received_at"],
        unique=False,
        schema="relay",
        postgresql_using="brin",
    )
    op.create_table(
        "inbox",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Text(collation="C"), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("object_type", sa.Text(), nullable=True),
        sa.Column("object_id", sa.Text(collation="C"), nullable=True),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("livemode", sa.Boolean(), nullable=True),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column("event_created", sa.DateTime(timezone=True), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("signature_header", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "xact_id",
            sa.BigInteger(),
            server_default=sa.text("(pg_current_xact_id()::text)::bigint"),
            nullable=False,
            comment="the transaction that stored the row",
        ),
        sa.CheckConstraint(
            "origin IN ('webhook', 'snapshot', 'reconcile')", name=op.f("inbox_origin_check")
        ),
        sa.CheckConstraint("octet_length(body_sha256) = 32", name=op.f("inbox_body_sha256_check")),
        sa.CheckConstraint("isfinite(event_created)", name=op.f("inbox_event_created_check")),
        sa.PrimaryKeyConstraint("id", "received_at", name=op.f("inbox_pkey")),
        schema="relay",
        comment="What was received, byte for byte. Append-only: rows are never updated.",
        postgresql_partition_by="RANGE (received_at)",
    )
    op.create_index(
        "inbox_object_idx", "inbox", ["object_id", "source_id", "id"], unique=False, schema="relay"
    )
    op.create_index(
        "inbox_received_at_idx",
        "inbox",
        ["received_at"],
        unique=False,
        schema="relay",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": "512", "autosummarize": "on"},
    )
    op.create_table(
        "operator_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("operator_log_pkey")),
        schema="relay",
        comment="Who did what and why. Append-only.",
    )
    op.create_table(
        "queue",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="the place in the line"),
        sa.Column("inbox_id", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_hash", sa.BigInteger(), nullable=False, comment="hash of the Kafka key"),
        sa.Column("bytes", sa.Integer(), nullable=False, comment="size of the body"),
        sa.Column("kind", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("crashes", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("alone", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("visible_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error_code", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("replay_id", sa.Text(), nullable=True),
        sa.CheckConstraint("lane >= 0 AND lane < 64", name=op.f("queue_lane_check")),
        sa.CheckConstraint(
            "attempts = 0 OR last_error_code IS NOT NULL", name=op.f("queue_reason_check")
        ),
        sa.CheckConstraint("attempts >= 0 AND crashes >= 0", name=op.f("queue_counts_check")),
        sa.CheckConstraint("kind IN (0, 1)", name=op.f("queue_kind_check")),
        sa.PrimaryKeyConstraint("source_id", "lane", "number", name=op.f("queue_pkey")),
        schema="relay",
        comment="One narrow row per unfinished event, deleted when it is settled.",
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
    op.create_index(
        "queue_inbox_id_key", "queue", ["inbox_id", "kind"], unique=True, schema="relay"
    )
    op.create_index(
        "queue_parked_idx",
        "queue",
        ["source_id", "lane", "key_hash", "number"],
        unique=False,
        schema="relay",
        postgresql_where=sa.text("visible_at IS NOT NULL"),
    )
    op.create_index(
        "queue_retrying_idx",
        "queue",
        ["inbox_id"],
        unique=False,
        schema="relay",
        postgresql_where=sa.text("attempts > 0"),
    )
    op.create_table(
        "receipt",
        sa.Column("inbox_id", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "number", sa.BigInteger(), nullable=False, comment="the queue row that it settles"
        ),
        sa.Column("record", sa.Integer(), nullable=False, comment="0 is the parent or the skip"),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=True),
        sa.Column("offset", sa.BigInteger(), nullable=True),
        sa.Column("produced_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("op", sa.Text(), nullable=True),
        sa.Column("skipped", sa.Text(), nullable=True),
        sa.Column("replay_id", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN (0, 1)", name=op.f("receipt_kind_check")),
        sa.CheckConstraint("record >= 0 AND attempts >= 0", name=op.f("receipt_counts_check")),
        sa.CheckConstraint(
            "skipped IN ('unselected', 'superseded', 'livemode_mismatch', 'discarded', 'redacted')",
            name=op.f("receipt_skipped_check"),
        ),
        sa.CheckConstraint(
            'CASE WHEN skipped IS NULL THEN num_nulls(topic, partition, "offset", key) = 0 ELSE num_nonnulls(topic, partition, "offset", key, op) = 0 END',
            name=op.f("receipt_settled_check"),
        ),
        schema="relay",
        comment="The proof of delivery: one row per acknowledged record, or one that says why not.",
        postgresql_partition_by="RANGE (received_at)",
    )
    op.create_index("receipt_inbox_id_idx", "receipt", ["inbox_id"], unique=False, schema="relay")
    op.create_index(
        "receipt_skipped_idx",
        "receipt",
        ["inbox_id"],
        unique=False,
        schema="relay",
        postgresql_where=sa.text("skipped IS NOT NULL"),
    )
    op.create_table(
        "source",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("resources", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("unselected", sa.Text(), nullable=False),
        sa.Column("default_topic", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Boolean(), nullable=False),
        sa.Column("fan_out", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("dlq", sa.Boolean(), nullable=False),
        sa.Column("dlq_topic", sa.Text(), nullable=False),
        sa.Column("topic_prefix", sa.Text(), nullable=False),
        sa.Column("route_by", sa.Text(), nullable=False),
        sa.Column("tombstones", sa.Boolean(), nullable=False),
        sa.Column("tolerance", sa.Integer(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("insecure", sa.Boolean(), nullable=False),
        sa.Column(
            "signing_secrets",
            postgresql.ARRAY(sa.LargeBinary()),
            nullable=False,
            comment="encrypted",
        ),
        sa.Column("stripe_api_key", sa.LargeBinary(), nullable=True, comment="encrypted"),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("halted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("halted_code", sa.Text(), nullable=True),
        sa.Column("halted_error", sa.Text(), nullable=True),
        sa.Column(
            "halted_number",
            sa.BigInteger(),
            nullable=True,
            comment="the queue row that the source halted at",
        ),
        sa.CheckConstraint("mode IN ('any', 'live', 'test')", name=op.f("source_mode_check")),
        sa.CheckConstraint(
            "route_by IN ('event_type', 'object')", name=op.f("source_route_by_check")
        ),
        sa.CheckConstraint(
            "unselected IN ('DEFAULT_TOPIC', 'SKIP', 'FAIL')", name=op.f("source_unselected_check")
        ),
        sa.CheckConstraint(
            "(halted_at IS NULL) = (halted_code IS NULL) AND (halted_at IS NULL) = (halted_number IS NULL)",
            name=op.f("source_halted_check"),
        ),
        sa.CheckConstraint(
            "cardinality(signing_secrets) > 0 OR insecure", name=op.f("source_verified_check")
        ),
        sa.CheckConstraint("tolerance > 0", name=op.f("source_tolerance_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("source_pkey")),
        sa.UniqueConstraint("public_id", name=op.f("source_public_id_key")),
        schema="relay",
        comment="One Stripe account (or Connect platform) with its own URL, keys and settings.",
    )
    op.create_index(
        "source_name_key",
        "source",
        ["name"],
        unique=True,
        schema="relay",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("api_key_sha256_check")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["relay.source.id"], name=op.f("api_key_source_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_key_pkey")),
        sa.UniqueConstraint("sha256", name=op.f("api_key_sha256_key")),
        schema="relay",
        comment="Keys of the webhook URLs; only their hashes are kept.",
    )
    op.create_index(
        op.f("api_key_source_id_idx"), "api_key", ["source_id"], unique=False, schema="relay"
    )
    op.create_table(
        "completeness_check",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("stripe_count", sa.BigInteger(), nullable=False),
        sa.Column("inbox_count", sa.BigInteger(), nullable=False),
        sa.Column("delivered_count", sa.BigInteger(), nullable=False),
        sa.Column("dead_count", sa.BigInteger(), nullable=False),
        sa.Column("missing_count", sa.BigInteger(), nullable=False),
        sa.Column(
            "checked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["relay.source.id"], name=op.f("completeness_check_source_id_fkey")
        ),
        sa.PrimaryKeyConstraint(
            "source_id", "hour", "event_type", name=op.f("completeness_check_pkey")
        ),
        schema="relay",
        comment="What Stripe's own event list said, hour by hour, beside what the inbox holds.",
    )
    op.create_table(
        "lane",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("lane >= 0 AND lane < 64", name=op.f("lane_lane_check")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["relay.source.id"], name=op.f("lane_source_id_fkey")
        ),
        sa.PrimaryKeyConstraint("source_id", "lane", name=op.f("lane_pkey")),
        schema="relay",
        comment="What a forwarder locks: one row per lane of a source. Locked, never updated.",
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("api_version", sa.Text(), nullable=True),
        sa.Column("created_after", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'finished', 'failed', 'cancelled')",
            name=op.f("snapshot_state_check"),
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["relay.source.id"], name=op.f("snapshot_source_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("snapshot_pkey")),
        schema="relay",
        comment="A backfill from the Stripe API.",
    )
    op.create_index(
        op.f("snapshot_source_id_idx"), "snapshot", ["source_id"], unique=False, schema="relay"
    )
    op.create_table(
        "snapshot_range",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("snapshot_id", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_from", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("objects", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("pages", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'finished', 'failed', 'cancelled')",
            name=op.f("snapshot_range_state_check"),
        ),
        sa.CheckConstraint("objects >= 0 AND pages >= 0", name=op.f("snapshot_range_counts_check")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["relay.snapshot.id"], name=op.f("snapshot_range_snapshot_id_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("snapshot_range_pkey")),
        schema="relay",
        comment="A half-open window of creation times of one resource, with the cursor inside it.",
    )
    op.create_index(
        op.f("snapshot_range_snapshot_id_idx"),
        "snapshot_range",
        ["snapshot_id"],
        unique=False,
        schema="relay",
    )
    op.execute("INSERT INTO relay.compatibility (revision, min_compatible) VALUES (1, 1)")
    _store_bodies_cheaply()
    views = Path(__file__).parent.parent / "sql" / "0001_views.sql"
    _execute_script(views.read_text())


def _execute_script(script: str) -> None:
    """Run several statements at once, which only the driver itself can."""
    connection = cast("AdaptedConnection", op.get_bind().connection.dbapi_connection)
    connection.run_async(lambda driver: driver.execute(script))


def _store_bodies_cheaply() -> None:
    """lz4 where the server has it; else no compression: pglz halves the rate of inserts."""
    lz4 = op.get_bind().scalar(
        sa.text(
            "SELECT 'lz4' = ANY (enumvals) FROM pg_settings"
            " WHERE name = 'default_toast_compression'"
        )
    )
    how = "SET COMPRESSION lz4" if lz4 else "SET STORAGE EXTERNAL"
    op.execute(f"ALTER TABLE relay.inbox ALTER COLUMN body {how}")


def downgrade() -> None:
    for view in (
        "completeness",
        "lag",
        "snapshot_progress",
        "dead_letters",
        "deliveries",
        "failed_events",
        "pending_events",
        "events",
    ):
        op.execute(f"DROP VIEW relay.{view}")
    op.drop_index(
        op.f("snapshot_range_snapshot_id_idx"), table_name="snapshot_range", schema="relay"
    )
    op.drop_table("snapshot_range", schema="relay")
    op.drop_index(op.f("snapshot_source_id_idx"), table_name="snapshot", schema="relay")
    op.drop_table("snapshot", schema="relay")
    op.drop_table("lane", schema="relay")
    op.drop_table("completeness_check", schema="relay")
    op.drop_index(op.f("api_key_source_id_idx"), table_name="api_key", schema="relay")
    op.drop_table("api_key", schema="relay")
    op.drop_index(
        "source_name_key",
        table_name="source",
        schema="relay",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("source", schema="relay")
    op.drop_index(
        "receipt_skipped_idx",
        table_name="receipt",
        schema="relay",
        postgresql_where=sa.text("skipped IS NOT NULL"),
    )
    op.drop_index("receipt_inbox_id_idx", table_name="receipt", schema="relay")
    op.drop_table("receipt", schema="relay")
    op.drop_index(
        "queue_retrying_idx",
        table_name="queue",
        schema="relay",
        postgresql_where=sa.text("attempts > 0"),
    )
    op.drop_index(
        "queue_parked_idx",
        table_name="queue",
        schema="relay",
        postgresql_where=sa.text("visible_at IS NOT NULL"),
    )
    op.drop_index("queue_inbox_id_key", table_name="queue", schema="relay")
    op.drop_table("queue", schema="relay")
    op.drop_table("operator_log", schema="relay")
    op.drop_index("inbox_received_at_idx", table_name="inbox", schema="relay")
    op.drop_index("inbox_object_idx", table_name="inbox", schema="relay")
    op.drop_table("inbox", schema="relay")
    op.drop_index(
        "event_key_received_at_idx", table_name="event_key", schema="relay", postgresql_using="brin"
    )
    op.drop_table("event_key", schema="relay")
    op.drop_index(
        "dead_letter_open_key",
        table_name="dead_letter",
        schema="relay",
        postgresql_where=sa.text("replayed_at IS NULL AND discarded_at IS NULL"),
    )
    op.drop_index(
        "dead_letter_open_idx",
        table_name="dead_letter",
        schema="relay",
        postgresql_where=sa.text("replayed_at IS NULL AND discarded_at IS NULL"),
    )
    op.drop_index(op.f("dead_letter_inbox_id_idx"), table_name="dead_letter", schema="relay")
    op.drop_table("dead_letter", schema="relay")
    op.drop_table("compatibility", schema="relay")
    op.drop_table("batch_note", schema="relay")
    op.drop_index(op.f("attempt_inbox_id_idx"), table_name="attempt", schema="relay")
    op.drop_table("attempt", schema="relay")
    for function in ("body_text(bigint)", "body(bigint)", "readable(bytea)"):
        op.execute(f"DROP FUNCTION relay.{function}")
    # With the triggers of partitions that somebody has detached to keep them.
    op.execute("DROP FUNCTION relay.refuse_change() CASCADE")
    op.execute("DROP SEQUENCE relay.arrival")
