"""The tables of snapshots: backfills, their ranges, and the clocks of the Stripe API."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from relay.store.tables import metadata, moment, source

snapshot = Table(
    "snapshot",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source_id", Integer, ForeignKey(source.c.id), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("api_version", Text),
    moment("created_after"),
    moment("created_before"),
    moment("started_at", nullable=False, default_now=True),
    moment("finished_at"),
    Column("resources", ARRAY(Text), nullable=False, server_default="{}"),
    Column("by_parent", ARRAY(Text), nullable=False, server_default="{}"),
    Column("livemode", Boolean, comment="the mode of the Stripe key"),
    moment("window_until"),
    Column("last_error", Text),
    CheckConstraint(
        "state IN ('running', 'paused', 'finished', 'failed', 'cancelled')", name="state"
    ),
    Index(
        "snapshot_open_idx",
        "id",
        postgresql_where=text("state = 'running'"),
    ),
    comment="A backfill from the Stripe API.",
)

snapshot_range = Table(
    "snapshot_range",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("snapshot_id", Text, ForeignKey(snapshot.c.id), nullable=False, index=True),
    Column("resource", Text, nullable=False),
    Column("state", Text, nullable=False),
    moment("created_from"),
    moment("created_until"),
    Column("cursor", Text),
    Column("objects", BigInteger, nullable=False, server_default="0"),
    Column("pages", BigInteger, nullable=False, server_default="0"),
    moment("started_at"),
    moment("updated_at"),
    moment("finished_at"),
    Column("last_error", Text),
    Column("pass", SmallInteger, nullable=False, server_default="0", key="pass_"),
    moment("last_created"),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    Column("limited", BigInteger, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    moment("wait_until"),
    Column("wait_reason", Text),
    Column("parents", ARRAY(Text)),
    Column("parents_cursor", Text),
    Column("parents_done", Boolean, nullable=False, server_default="false"),
    CheckConstraint(
        "state IN ('running', 'paused', 'finished', 'failed', 'cancelled')", name="state"
    ),
    CheckConstraint("objects >= 0 AND pages >= 0", name="counts"),
    Index(
        "snapshot_range_open_idx",
        "snapshot_id",
        "resource",
        postgresql_where=text("state = 'running'"),
    ),
    comment="A half-open window of creation times of one resource, with the cursor inside it.",
)

api_rate = Table(
    "api_rate",
    metadata,
    Column("account", Text, nullable=False, comment="hash of the Stripe key"),
    Column("endpoint", Text, nullable=False, comment="path, or empty for all of them together"),
    moment("next_at", nullable=False, default_now=True),
    Column("factor", Double, nullable=False, server_default="1"),
    moment("slowed_at", nullable=False, default_now=True),
    PrimaryKeyConstraint("account", "endpoint"),
    CheckConstraint("factor > 0 AND factor <= 1", name="factor"),
    comment="When the next request to the Stripe API may be sent, for all processes together.",
    postgresql_with={
        "fillfactor": "50",
        "autovacuum_vacuum_scale_factor": "0",
        "autovacuum_vacuum_threshold": "1000",
    },
)

SNAPSHOT_TABLES = (snapshot, snapshot_range, api_rate)
