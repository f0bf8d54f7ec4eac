"""python -m website DIRECTORY: writes the pages that are generated from the code.

They need a PostgreSQL, for what the database says of itself: the embedded one of `relay dev`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from relay.dev.postgres import EmbeddedPostgres
from relay.store import schema
from website import codes, commands, metrics, records, settings, views


async def pages() -> dict[str, str]:
    """The text of each page by its name."""
    with tempfile.TemporaryDirectory(prefix="relay-docs-") as scratch:
        async with EmbeddedPostgres(scratch) as server:
            await schema.migrate(server.dsn)
            of_views = await views.page(server.dsn)
    return {
        "settings": settings.page(),
        "commands": commands.page(),
        "metrics": metrics.page(),
        "records": records.page(),
        "event-types": records.types_page(),
        "views": of_views,
        "codes": codes.page(),
    }


def main(directory: Path) -> None:
    made = asyncio.run(pages())
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        (directory / f"{name}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
