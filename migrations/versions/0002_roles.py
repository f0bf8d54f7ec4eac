"""What processes need that do not own the schema: partitions and bodies through functions."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from alembic import op
from sqlalchemy import AdaptedConnection

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _execute_script((Path(__file__).parent.parent / "sql" / "0002_roles.sql").read_text())
    op.execute("UPDATE relay.compatibility SET revision = 2, min_compatible = 1")


def downgrade() -> None:
    op.execute("DROP FUNCTION relay.make_partition(timestamptz, timestamptz)")
    op.execute("ALTER FUNCTION relay.body(bigint) SECURITY INVOKER")
    op.execute("ALTER FUNCTION relay.body(bigint) RESET search_path")
    op.execute(
        "GRANT EXECUTE ON FUNCTION relay.refuse_change(), relay.readable(bytea),"
        " relay.body(bigint), relay.body_text(bigint) TO PUBLIC"
    )
    op.execute("UPDATE relay.compatibility SET revision = 1, min_compatible = 1")


def _execute_script(script: str) -> None:
    """Run several statements at once, which only the driver itself can."""
    connection = cast("AdaptedConnection", op.get_bind().connection.dbapi_connection)
    connection.run_async(lambda driver: driver.execute(script))
