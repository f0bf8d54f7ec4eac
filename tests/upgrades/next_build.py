"""The build after this one, as far as upgrades go: the same code, one schema revision further.

Run by its path, like `relay`. Its migration is the only one in `versions`.
"""

from __future__ import annotations

import os
from pathlib import Path

from alembic.config import Config

from relay.cli.main import main
from relay.store import roles, schema

THIS = schema.BUILD_REVISION
NEXT = Path(__file__).parent / "versions"

_this_build = schema._alembic_config
_grants = roles._text


def with_the_next() -> Config:
    """Where alembic finds the migrations, the next one included."""
    config = _this_build()
    own = Path(str(config.get_main_option("script_location"))) / "versions"
    config.set_main_option("version_locations", os.pathsep.join([str(own), str(NEXT)]))
    return config


def grants_of_the_next(name: str) -> str:
    """The same ones, said to be for its revision."""
    text = _grants(name)
    for words in ("present < {} ", "present > {} ", "for revision {}'"):
        assert name != "grants.sql" or words.format(THIS) in text, words
        text = text.replace(words.format(THIS), words.format(THIS + 1))
    return text


def become_the_next() -> None:
    schema.BUILD_REVISION = THIS + 1
    schema._alembic_config = with_the_next
    roles._text = grants_of_the_next


if __name__ == "__main__":
    become_the_next()
    main(prog_name="relay")
