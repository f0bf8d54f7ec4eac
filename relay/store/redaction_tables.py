"""The table of redactions: what proves a body that was erased, instead of its bytes.

Of the inbox row alone it is told by an empty body that is not what was received (its SHA-256 is
that of something). Whoever sends asks that, since it is so from the erasure on in every schema.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

from relay.store.tables import Moment, metadata, moment

# No more than is needed: whose body it was is told by the row of the inbox, which stays. No foreign
# key to it, since a partition of the inbox goes by being detached.
redaction = Table(
    "redaction",
    metadata,
    Column("inbox_id", BigInteger, nullable=False, autoincrement=False),
    moment("received_at", nullable=False),
    Column("body_bytes", Integer, nullable=False, comment="how many bytes were erased"),
    Column("reason", Text, nullable=False),
    Column("operator", Text, nullable=False),
    Column("redacted_at", Moment, nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("inbox_id", "received_at"),
    # For pruning only, as that of event_key.
    Index("redaction_received_at_idx", "received_at", postgresql_using="brin"),
    CheckConstraint("body_bytes > 0", name="body_bytes"),
    CheckConstraint("reason <> '' AND operator <> ''", name="said_why"),
    comment="One row per event whose body was erased. Written by relay.redact() alone.",
)

REDACTION_TABLES = (redaction,)

IS_REDACTED = "(octet_length(i.body) = 0 AND i.body_sha256 <> sha256(''))"
"""In SQL, of a row `i` of the inbox."""
