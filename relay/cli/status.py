"""`relay status`: how it goes, in numbers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from relay.cli.call import Call, common, coroutine
from relay.cli.output import say, warn, write_json, write_table
from relay.display import duration

if TYPE_CHECKING:
    from relay.settings import Settings

_KAFKA_SECONDS = 5.0
_REACHABLE = {True: "can be reached", False: "cannot be reached"}


@click.command(short_help="What waits, what is dead, what is wrong.")
@common
@coroutine
async def status(call: Call) -> None:
    """What waits and what is dead by source, and what stands in the way."""
    async with call.database() as database, database.begin() as connection:
        from relay.settings import hide_password
        from relay.store import status as store

        found: dict[str, Any] = {
            "database": hide_password(call.settings.require_database_url()),
            "sources": [_source(row) for row in await store.lag(connection)],
            "waiting": await store.waiting_reasons(connection),
            "batches": await store.batches(connection),
            # Behind a pooler only those that are in a transaction at this moment could be seen.
            "services": None if await database.is_pooled() else await store.services(connection),
            "partitions_ahead_days": await store.partitions_ahead_days(connection),
        }
    found["kafka"] = await asyncio.to_thread(_kafka, call.settings)
    found["warnings"] = _warnings(found)
    if call.json:
        write_json(found)
        return
    _write(found)
    for warning in found["warnings"]:
        warn(warning)


def _kafka(settings: Settings) -> dict[str, Any] | None:
    """Whether Kafka can be reached from here, with the settings that were given to this command."""
    if settings.kafka_bootstrap_servers is None:
        return None
    from relay.core.errors import ConfigError
    from relay.kafka import TopicReader

    try:
        reader = TopicReader(settings.kafka_bootstrap_servers, settings.kafka_properties)
        try:
            reader.topics(_KAFKA_SECONDS)
        finally:
            reader.close()
    except (ConnectionError, ConfigError) as error:
        return {"reachable": False, "reason": str(error)}
    return {"reachable": True, "reason": None}


def _source(row: dict[str, Any]) -> dict[str, Any]:
    stopped = "halted" if row["halted_at"] else "paused" if row["paused_at"] else None
    return {
        "source": row["source"],
        "state": stopped or "forwarding",
        "pending": row["pending"],
        "retrying": row["retrying"],
        "dead": row["dead"],
        "oldest_pending_seconds": row["oldest_pending_seconds"],
        "halted_code": row["halted_code"],
        "halted_error": row["halted_error"],
        "insecure": row["insecure"],
    }


def _warnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    for row in found["sources"]:
        name = row["source"]
        if row["insecure"]:
            warnings.append(f"source {name} does not verify signatures")
        if row["state"] == "halted":
            warnings.append(
                f"source {name} has halted ({row['halted_code']}: {row['halted_error']})"
            )
    if found["partitions_ahead_days"] is None or found["partitions_ahead_days"] < 1:
        warnings.append(
            "no partition of the inbox lies ahead: soon nothing can be stored; is any"
            " `relay serve` running?"
        )
    if found["kafka"] is not None and not found["kafka"]["reachable"]:
        warnings.append(found["kafka"]["reason"])
    if found["services"] == []:
        warnings.append("no service of relay is connected to this database")
    return warnings


def _write(found: dict[str, Any]) -> None:
    say(f"database    {found['database']}")
    say(f"services    {_services(found['services'])}")
    kafka = found["kafka"]
    say(f"kafka       {'-' if kafka is None else _REACHABLE[kafka['reachable']]}")
    days = found["partitions_ahead_days"]
    say(f"partitions  {'-' if days is None else f'{days:.0f} days ahead'}")
    say()
    rows = [row | {"oldest": _oldest(row)} for row in found["sources"]]
    columns = ("source", "state", "pending", "retrying", "dead", "oldest")
    write_table(rows, columns, "no sources: `relay source create`")
    if found["waiting"]:
        say("\nwaiting for")
        write_table(found["waiting"], ("source", "code", "events", "error", "next_attempt_at"), "")
    if found["batches"]:
        say("\nin flight")
        rows = [row | {"age": duration(row["seconds"])} for row in found["batches"]]
        write_table(rows, ("process_id", "rows", "lanes", "age"), "")


def _services(rows: list[dict[str, Any]] | None) -> str:
    if rows is None:
        return "not to be seen through a pooler"
    return ", ".join(f"{row['name']} ({row['connections']})" for row in rows) or "-"


def _oldest(row: dict[str, Any]) -> str | None:
    seconds = row["oldest_pending_seconds"]
    return None if seconds is None else duration(seconds)
