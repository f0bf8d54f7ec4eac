"""What snapshots need beside their tables: passes, waits, parents, the shared rate, history."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from alembic import op
from sqlalchemy import AdaptedConnection
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

_MOMENT = sa.DateTime(timezone=True)


def _zero(name: str, type_: sa.types.TypeEngine[int]) -> sa.Column[int]:
    return sa.Column(name, type_, server_default="0", nullable=False)


def _texts(name: str) -> sa.Column[list[str]]:
    return sa.Column(name, postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False)


_SNAPSHOT: tuple[sa.Column[Any], ...] = (
    _texts("resources"),
    _texts("by_parent"),
    sa.Column("livemode", sa.Boolean(), nullable=True, comment="the mode of the Stripe key"),
    sa.Column("window_until", _MOMENT, nullable=True),
    sa.Column("last_error", sa.Text(), nullable=True),
)
_RANGE: tuple[sa.Column[Any], ...] = (
    _zero("pass", sa.SmallInteger()),
    sa.Column("last_created", _MOMENT, nullable=True),
    _zero("requests", sa.BigInteger()),
    _zero("limited", sa.BigInteger()),
    _zero("failures", sa.Integer()),
    sa.Column("wait_until", _MOMENT, nullable=True),
    sa.Column("wait_reason", sa.Text(), nullable=True),
    sa.Column("parents", postgresql.ARRAY(sa.Text()), nullable=True),
    sa.Column("parents_cursor", sa.Text(), nullable=True),
    sa.Column("parents_done", sa.Boolean(), server_default="false", nullable=False),
)


def upgrade() -> None:
    for column in _SNAPSHOT:
        op.add_column("snapshot", column, schema="relay")
    for column in _RANGE:
        op.add_column("snapshot_range", column, schema="relay")
    running = sa.text("state = 'running'")
    op.create_index(
        "snapshot_open_idx", "snapshot", ["id"], schema="relay", postgresql_where=running
    )
    op.create_index(
        "snapshot_range_open_idx",
        "snapshot_range",
        ["snapshot_id", "resource"],
        schema="relay",
        postgresql_where=running,
    )
    op.create_table(
        "api_rate",
        sa.Column("account", sa.Text(), nullable=False, comment="hash of the Stripe key"),
        sa.Column(
            "endpoint",
            sa.Text(),
            nullable=False,
            comment="path, or empty for all of them together",
        ),
        sa.Column("next_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("factor", sa.Double(), server_default="1", nullable=False),
        sa.Column("slowed_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("factor > 0 AND factor <= 1", name=op.f("api_rate_factor_check")),
        sa.PrimaryKeyConstraint("account", "endpoint", name=op.f("api_rate_pkey")),
        schema="relay",
        comment="When the next request to the Stripe API may be sent, for all processes together.",
        postgresql_with={
            "fillfactor": "50",
            "autovacuum_vacuum_scale_factor": "0",
            "autovacuum_vacuum_threshold": "1000",
        },
    )
    _execute_script((Path(__file__).parent.parent / "sql" / "0003_snapshots.sql").read_text())
    op.execute("UPDATE relay.compatibility SET revision = 3, min_compatible = 1")


def downgrade() -> None:
    op.execute("DROP VIEW relay.snapshots")
    op.drop_table("api_rate", schema="relay")
    op.drop_index("snapshot_range_open_idx", "snapshot_range", schema="relay")
    op.drop_index("snapshot_open_idx", "snapshot", schema="relay")
    for column in reversed(_RANGE):
        op.drop_column("snapshot_range", column.name, schema="relay")
    for column in reversed(_SNAPSHOT):
        op.drop_column("snapshot", column.name, schema="relay")
    op.execute("UPDATE relay.compatibility SET revision = 2, min_compatible = 1")


def _execute_script(script: str) -> None:
    """Run several statements at once, which only the driver itself can."""
    connection = cast("AdaptedConnection", op.get_bind().connection.dbapi_connection)
    connection.run_async(lambda driver: driver.execute(script))
