"""Evidence: bodies that can be redacted while everything that proves them stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import sqlalchemy as sa
from alembic import op
from sqlalchemy import AdaptedConnection

revision = "0004"
down_revision = "0003"

_MOMENT = sa.DateTime(timezone=True)
_SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    _upgrade_redaction()
    op.execute("UPDATE relay.compatibility SET revision = 4, min_compatible = 1")


def downgrade() -> None:
    _downgrade_redaction()
    op.execute("UPDATE relay.compatibility SET revision = 3, min_compatible = 1")


# Redaction

_RECEIVED_BYTES = "octet_length(i.body)"
_BYTES_ONCE_RECEIVED = """
       CASE WHEN octet_length(i.body) > 0 THEN octet_length(i.body)
            ELSE coalesce((SELECT r.body_bytes FROM relay.redaction r
                           WHERE r.inbox_id = i.id AND r.received_at = i.received_at), 0) END"""


def _upgrade_redaction() -> None:
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


def _downgrade_redaction() -> None:
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
