"""Whether the migrations make what the tables in the code say: `alembic check` on a new database.

python -m tests.support.check_migrations
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from relay.dev.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="relay-migrations-") as directory,
        EmbeddedPostgres(directory) as server,
    ):
        os.environ["RELAY_DATABASE_URL"] = server.dsn
        config = Config(str(ROOT / "alembic.ini"))
        command.upgrade(config, "head")
        try:
            command.check(config)
        except CommandError as difference:
            print(f"migrations and tables differ: {difference}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
