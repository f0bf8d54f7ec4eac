"""The build after this one, as far as upgrades go: the same code, one schema revision further.

Run by its path, like `relay`. Its migration is the only one in `versions`.
"""

from __future__ import annotations

import os
from pathlib import Path

from alembic.config import Config

from relay.cli.main import main
from relay.store import schema

NEXT = Path(__file__).parent / "versions"

_this_build = schema._alembic_config


def with_the_next() -> Config:
    """Where alembic finds the migrations, the next one included."""
    config = _this_build()
    own = Path(str(config.get_main_option("script_location"))) / "versions"
    config.set_main_option("version_locations", os.pathsep.join([str(own), str(NEXT)]))
    return config


def become_the_next() -> None:
    schema.BUILD_REVISION += 1
    schema._alembic_config = with_the_next


if __name__ == "__main__":
    become_the_next()
    main(prog_name="relay")
