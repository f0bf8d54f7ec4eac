"""The table of the seals: a hash chain over the rows of the inbox, see ``relay.core.seal``."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Index,
    Integer,
    LargeBinary,
    Table,
)
from sqlalchemy.dialects.postgresql import ARRAY

from relay.store.tables import metadata, moment

seal = Table(
    "seal",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", LargeBinary, nullable=False, comment="hash of the seal before it"),
    Column("sha256", LargeBinary, nullable=False, comment="hash of this seal"),
    Column("day", Date, nullable=False, comment="on which its rows were received, in UTC"),
    Column("count", Integer, nullable=False),
    Column("first_id", BigInteger),
    Column("last_id", BigInteger),
    Column("ids", ARRAY(BigInteger), nullable=False, comment="inbox ids, in the order of leaves"),
    Column("leaves", LargeBinary, nullable=False, comment="32 bytes for each row"),
    moment("sealed_at", nullable=False, default_now=True),
    # How far the sealing had come with it: no part of the hash, and no evidence.
    Column("cluster", BigInteger, nullable=False, comment="system identifier of the server"),
    Column("xact_until", BigInteger, nullable=False, comment="rows of transactions before it"),
    Column("resume_xact", BigInteger, comment="where to go on after all rows were gone through"),
    Column("walk", Boolean, nullable=False, comment="made while all rows were gone through"),
    CheckConstraint("octet_length(previous) = 32 AND octet_length(sha256) = 32", name="hashes"),
    CheckConstraint("cardinality(ids) = count AND octet_length(leaves) = 32 * count", name="rows"),
    CheckConstraint(
        "num_nulls(first_id, last_id) = CASE WHEN count = 0 THEN 2 ELSE 0 END", name="ends"
    ),
    # Whether a row is sealed already is asked by its day and id.
    Index("seal_day_idx", "day", "last_id"),
    comment="A hash chain over the rows of the inbox. Append-only; the oldest go with their rows.",
)

SEAL_TABLES = (seal,)
