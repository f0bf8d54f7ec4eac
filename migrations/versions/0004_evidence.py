"""What proves the promise: seals over the inbox, and bodies that can be redacted all the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import op
from sqlalchemy import AdaptedConnection
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_MOMENT = sa.DateTime(timezone=True)
_SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    _add_seals()
    _add_redaction()
    op.execute("UPDATE relay.compatibility SET revision = 4, min_compatible = 1")


def downgrade() -> None:
    _drop_redaction()
    _drop_seals()
    op.execute("UPDATE relay.compatibility SET revision = 3, min_compatible = 1")


# Seals


def _add_seals() -> None:
    op.create_table(
        "seal",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "previous", sa.LargeBinary(), nullable=False, comment="hash of the seal before it"
        ),
        sa.Column("sha256", sa.LargeBinary(), nullable=False, comment="hash of this seal"),
        sa.Column(
            "day", sa.Date(), nullable=False, comment="on which its rows were received, in UTC"
        ),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=True),
        sa.Column("last_id", sa.BigInteger(), nullable=True),
        sa.Column(
            "ids",
            postgresql.ARRAY(sa.BigInteger()),
            nullable=False,
            comment="inbox ids, in the order of leaves",
        ),
        sa.Column("leaves", sa.LargeBinary(), nullable=False, comment="32 bytes for each row"),
        sa.Column("sealed_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "cluster", sa.BigInteger(), nullable=False, comment="system identifier of the server"
        ),
        sa.Column(
            "xact_until", sa.BigInteger(), nullable=False, comment="rows of transactions before it"
        ),
        sa.Column(
            "resume_xact",
            sa.BigInteger(),
            nullable=True,
            comment="where to go on after all rows were gone through",
        ),
        sa.Column(
            "walk",
            sa.Boolean(),
            nullable=False,
            comment="made while all rows were gone through",
        ),
        sa.CheckConstraint(
            "octet_length(previous) = 32 AND octet_length(sha256) = 32",
            name=op.f("seal_hashes_check"),
        ),
        sa.CheckConstraint(
            "cardinality(ids) = count AND octet_length(leaves) = 32 * count",
            name=op.f("seal_rows_check"),
        ),
        sa.CheckConstraint(
            "num_nulls(first_id, last_id) = CASE WHEN count = 0 THEN 2 ELSE 0 END",
            name=op.f("seal_ends_check"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("seal_pkey")),
        schema="relay",
        comment="A hash chain over the rows of the inbox. Append-only; the oldest go with their rows.",
    )
    op.create_index("seal_day_idx", "seal", ["day", "last_id"], schema="relay")
    op.execute(_MAKE_INDEX)
    _execute_script((_SQL / "0004_seals.sql").read_text())


def _drop_seals() -> None:
    op.execute("DROP FUNCTION relay.altered_bodies(bigint[], timestamptz, timestamptz)")
    op.drop_table("seal", schema="relay")
    op.execute(_DROP_INDEX)


# Partitions with rows get theirs by the housekeeping, which does not stop inserts for it.
_MAKE_INDEX = """
DO $$
DECLARE found record;
BEGIN
    CREATE INDEX inbox_xact_id_idx ON ONLY relay.inbox USING brin (xact_id)
        WITH (pages_per_range = 512, autosummarize = on);
    FOR found IN
        SELECT c.relname AS name FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
        WHERE h.inhparent = 'relay.inbox'::regclass AND NOT h.inhdetachpending
          AND pg_relation_size(c.oid) = 0
    LOOP
        EXECUTE format('CREATE INDEX %I ON relay.%I USING brin (xact_id)'
            ' WITH (pages_per_range = 512, autosummarize = on)',
            found.name || '_xact_id_idx', found.name);
        EXECUTE format('ALTER INDEX relay.inbox_xact_id_idx ATTACH PARTITION relay.%I',
            found.name || '_xact_id_idx');
    END LOOP;
END $$
"""

# With those of partitions that were not attached to it yet.
_DROP_INDEX = """
DO $$
DECLARE found record;
BEGIN
    DROP INDEX relay.inbox_xact_id_idx;
    FOR found IN
        SELECT i.indexrelid::regclass AS name
        FROM pg_inherits h JOIN pg_index i ON i.indrelid = h.inhrelid
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'xact_id'
        WHERE h.inhparent = 'relay.inbox'::regclass AND i.indkey::text = a.attnum::text
    LOOP
        EXECUTE format('DROP INDEX %s', found.name);
    END LOOP;
END $$
"""


# Redaction

_RECEIVED_BYTES = "octet_length(i.body)"
_BYTES_ONCE_RECEIVED = """
       CASE WHEN octet_length(i.body) > 0 THEN octet_length(i.body)
            ELSE coalesce((SELECT r.body_bytes FROM relay.redaction r
                           WHERE r.inbox_id = i.id AND r.received_at = i.received_at), 0) END"""


def _add_redaction() -> None:
    op.create_table(
        "redaction",
        sa.Column("inbox_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", _MOMENT, nullable=False),
        sa.Column("body_bytes", sa.Integer(), nullable=False, comment="how many bytes were erased"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column(
            "redacted_at", _MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("body_bytes > 0", name=op.f("redaction_body_bytes_check")),
        sa.CheckConstraint(
            "reason <> '' AND operator <> ''", name=op.f("redaction_said_why_check")
        ),
        sa.PrimaryKeyConstraint("inbox_id", "received_at", name=op.f("redaction_pkey")),
        schema="relay",
        comment="One row per event whose body was erased. Written by relay.redact() alone.",
    )
    op.create_index(
        "redaction_received_at_idx",
        "redaction",
        ["received_at"],
        schema="relay",
        postgresql_using="brin",
    )
    _execute_script((_SQL / "0004_redaction.sql").read_text())
    _execute_script(_events_view(_BYTES_ONCE_RECEIVED))


def _drop_redaction() -> None:
    # Without their proof, erased bodies would look like lost ones.
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM relay.redaction) THEN
                RAISE EXCEPTION 'bodies were redacted: the schema of before cannot tell that'
                    USING HINT = 'The older build runs on this schema; leave it as it is.';
            END IF;
        END $$
        """
    )
    _execute_script(_events_view(_RECEIVED_BYTES))
    op.execute("DROP VIEW relay.redactions")
    op.execute("DROP FUNCTION relay.redact_samples(text, integer[])")
    op.execute("DROP FUNCTION relay.redact(bigint[], timestamptz[], text, text)")
    views = (_SQL / "0001_views.sql").read_text()
    for name in ("refuse_change", "body", "body_text"):
        _execute_script(_original(views, rf"CREATE FUNCTION relay\.{name}\("))
        _execute_script(_original(views, rf"COMMENT ON FUNCTION relay\.{name}\("))
    op.execute("ALTER FUNCTION relay.body(bigint) SECURITY DEFINER")
    op.execute("ALTER FUNCTION relay.body(bigint) SET search_path = pg_catalog, pg_temp")
    op.execute(
        "COMMENT ON TABLE relay.inbox IS"
        " 'What was received, byte for byte. Append-only: rows are never updated.'"
    )
    op.drop_table("redaction", schema="relay")


def _events_view(body_bytes: str) -> str:
    """The view as the first revision has it, but for how it tells the length of a body."""
    view = _original((_SQL / "0001_views.sql").read_text(), r"CREATE VIEW relay\.events ")
    return view.replace(f"{_RECEIVED_BYTES} AS body_bytes", f"{body_bytes} AS body_bytes")


def _original(script: str, beginning: str) -> str:
    """The one statement of a script that begins like this, made to replace what there is."""
    (statement,) = re.findall(
        rf"^{beginning}.*?;\n(?=\n|COMMENT|CREATE|--|\Z)", script, re.M | re.S
    )
    return str(statement).replace("CREATE ", "CREATE OR REPLACE ", 1)


def _execute_script(script: str) -> None:
    """Run several statements at once, which only the driver itself can."""
    connection = cast("AdaptedConnection", op.get_bind().connection.dbapi_connection)
    connection.run_async(lambda driver: driver.execute(script))
