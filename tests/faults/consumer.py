"""The consumer of the guide reads what an attack has left, and must come to the right end.

It closes the one window that remains by design: a record that came late, behind newer ones of its
key, changes nothing for who keeps the highest `_inbox_id`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from tests.faults.evidence import Proof

PROGRAM: Final = Path(__file__).parents[2] / "docs" / "examples" / "consumer.py"
_SECONDS: Final = 120.0


async def read_states(
    bootstrap_servers: str, topics: Collection[str], database: Path
) -> dict[tuple[str, str], int]:
    """The inbox id at which the program leaves each object, by topic and key."""
    if not topics:
        return {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        *("--bootstrap-servers", bootstrap_servers, "--database", str(database), "--until-end"),
        *sorted(topics),
    )
    async with asyncio.timeout(_SECONDS):
        status = await process.wait()
    assert status == 0, f"{PROGRAM.name} ended with {status}"
    with sqlite3.connect(database) as tables:
        rows = tables.execute("SELECT topic, key, max(inbox_id) FROM object GROUP BY topic, key")
        return {(topic, key): inbox_id for topic, key, inbox_id in rows}


def judge(
    states: dict[tuple[str, str], int], proofs: Iterable[Proof], topics: Collection[str]
) -> list[str]:
    """Each object has to be as its newest delivered event left it. Pure."""
    newest: dict[tuple[str, str], int] = {}
    for proof in proofs:
        topic, key = proof.place[0], proof.key.decode()
        if proof.kind == "event" and topic in topics:
            newest[topic, key] = max(newest.get((topic, key), 0), proof.inbox_id)
    return [
        f"the consumer has {key} of {topic} as of event {states.get((topic, key))}, not {inbox_id}"
        for (topic, key), inbox_id in newest.items()
        if states.get((topic, key)) != inbox_id
    ]
