"""`relay audit` on what an attack has left must come to the same verdict as the rig."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from tests.acceptance.fleet import command
from tests.faults.world import World


async def read_head(world: World) -> str | None:
    """The newest seal, as somebody keeps it elsewhere; None before the first."""
    head = await world.relay("audit", "--head")
    return None if head["number"] is None else f"{head['number']}:{head['sha256']}"


async def audit(world: World, heads: Collection[str]) -> list[str]:
    """What is wrong, in its own words."""
    flags = [word for head in heads for word in ("--expect", head)]
    current = world.environment | {"RELAY_DATABASE_URL": world.postgres.server.dsn}
    _, output, errors = await command("audit", "--kafka", "--json", *flags, environment=current)
    if not output.strip():
        return [f"relay audit: {errors}"]
    report = json.loads(output)
    looked_at = {check["name"]: check["looked_at"] for check in report["checks"]}
    world.tell("relay audit looked at:", **looked_at)
    return judge(report, world.deleted_topics)


def judge(report: dict[str, Any], deleted_topics: Collection[str]) -> list[str]:
    """A topic that was deleted is missed by it, and by nobody else. Pure."""
    if not any(check["name"] == "seals" and check["looked_at"] for check in report["checks"]):
        return ["relay audit: nothing was sealed"]
    return [
        f"relay audit: {each['check']}: {each['error']} ({each['event_id']})"
        for each in report["violations"]
        if each["topic"] not in deleted_topics
    ]
