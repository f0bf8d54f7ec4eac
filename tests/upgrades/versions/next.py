"""What a next release may bring."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relay.store import schema

# Only the next build loads this file, and its revision is one further than ours.
revision = f"{schema.BUILD_REVISION:04}"
down_revision = f"{schema.BUILD_REVISION - 1:04}"


# First all the locks of the tables on the main path, in the order in which a forwarder takes them:
# taken one by one in another order, they and its own would wait for each other again and again.
LOCK = "LOCK TABLE relay.source, relay.queue, relay.inbox, relay.receipt IN ACCESS EXCLUSIVE MODE"


def upgrade() -> None:
    op.execute(LOCK)
    op.execute("ALTER TABLE relay.receipt ADD COLUMN next_note text")
    op.execute("ALTER TABLE relay.queue ADD COLUMN next_weight integer NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE relay.inbox ADD COLUMN next_note text")
    op.execute("ALTER TABLE relay.source ADD COLUMN next_flag boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE relay.inbox ADD CONSTRAINT next CHECK (next_note <> '') NOT VALID")
    op.execute("CREATE INDEX queue_next_idx ON relay.queue (next_weight) WHERE next_weight > 0")
    # The view as it was is kept for the way back.
    op.execute("CREATE TABLE relay.next_thing (lag_was text NOT NULL, readers text NOT NULL)")
    op.execute(
        "INSERT INTO relay.next_thing SELECT pg_get_viewdef('relay.lag'::regclass), coalesce("
        " string_agg(DISTINCT grantee::regrole::text, ', ') FILTER (WHERE grantee <> relowner), '')"
        " FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))"
        " WHERE oid = 'relay.lag'::regclass"
    )
    was = op.get_bind().scalar(sa.text("SELECT rtrim(lag_was, ';') FROM relay.next_thing"))
    op.execute(f"CREATE OR REPLACE VIEW relay.lag AS SELECT w.*, 0 AS next_count FROM ({was}) w")
    op.execute(f"UPDATE relay.compatibility SET revision = {int(revision)}")
    op.execute(f"UPDATE relay.compatibility SET min_compatible = {int(down_revision)}")


def downgrade() -> None:
    op.execute(LOCK)
    op.execute(
        f"UPDATE relay.compatibility SET min_compatible = {max(int(down_revision) - 1, 1)},"
        f" revision = {int(down_revision)}"
    )
    was, readers = op.get_bind().execute(sa.text("SELECT * FROM relay.next_thing")).one()
    op.execute("DROP VIEW relay.lag")
    op.execute(f"CREATE VIEW relay.lag AS {was}")
    if readers:  # a view that was dropped has lost its grants
        op.execute(f"GRANT SELECT ON relay.lag TO {readers}")
    op.execute("DROP TABLE relay.next_thing")
    op.execute("ALTER TABLE relay.source DROP COLUMN next_flag")
    op.execute("ALTER TABLE relay.inbox DROP CONSTRAINT next, DROP COLUMN next_note")
    op.execute("ALTER TABLE relay.queue DROP COLUMN next_weight")
    op.execute("ALTER TABLE relay.receipt DROP COLUMN next_note")
