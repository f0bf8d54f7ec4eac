"""`relay audit`: proves the promise from what is stored, from the outside of the services.

`relay.dev.verdict` asks similar things for the demo, and shares no code with this on purpose: it
knows what was sent and holds all of it in memory, and it proves that an audit like this one is
right. An audit knows only what is stored, and must do with little memory for any number of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import asyncpg
import msgspec

from relay.audit.accounts import Page, judge
from relay.audit.chain import Chain, SealedRows, follow, look_for_partitions
from relay.audit.records import Records
from relay.audit.report import CHECKS, Check, Findings, Report, Violation
from relay.core.errors import ConfigError
from relay.store import evidence, partitions
from relay.store.engine import Database
from relay.store.seals import Head, read_head

__all__ = ["CHECKS", "Check", "Head", "Records", "Report", "Scope", "Violation", "audit", "head"]

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at. ``since`` counts from the beginning of its day in UTC."""

    source: str | None = None
    since: datetime | None = None
    expected: tuple[Head, ...] = ()


async def head(database: Database) -> Head | None:
    """The newest seal. Raises ConfigError on a schema without seals."""
    async with evidence.snapshot(database) as pg:
        await _require_seals(pg)
        return await read_head(pg)


async def audit(database: Database, scope: Scope, records: Records | None = None) -> Report:
    """Everything that can be proven; with ``records`` in Kafka as well.

    One snapshot of the database for all of it, so that what is on its way is no violation. Raises
    ConfigError on a schema without seals and for a source that there never was, and what the
    ``records`` raise.
    """
    findings = Findings()
    since = _EVER if scope.since is None else _midnight(scope.since)
    async with evidence.snapshot(database) as pg:
        await _require_seals(pg)
        now: datetime = await pg.fetchval("SELECT now()")
        sources = await _sources(pg, scope.source)
        kept = await partitions.list_partitions(pg)
        chain = await follow(pg, scope.expected, findings)
        await look_for_partitions(pg, chain, kept, await partitions.list_marked(pg), findings)
        await _look_at_rows(pg, chain, kept, since, sources, findings)
        bounds = [(each.lower, each.upper) for each in kept]
        findings.look("orphans", 0)
        async for kind, inbox_id, name in evidence.orphans(pg, bounds, since, sources):
            error = f"the {kind} {name} points to an event that is not there"
            findings.add(Violation(check="orphans", error=error, inbox_id=inbox_id))
        if records is not None:
            await records.compare(pg, since, sources, findings)
    return Report(
        audited_at=now,
        source=scope.source,
        since=None if scope.since is None else since,
        head=chain.head,
        checks=findings.checks(),
        notes=findings.notes,
        violations=tuple(findings.violations),
    )


async def _look_at_rows(
    pg: asyncpg.Connection,
    chain: Chain,
    kept: Sequence[partitions.Partition],
    since: datetime,
    sources: Sequence[int] | None,
    findings: Findings,
) -> None:
    # A seal holds rows of every source: with one given, they cannot be told from removed ones.
    sealed = SealedRows(pg, chain, kept, since, findings) if sources is None else None
    async for rows in evidence.pages(pg, since, sources):
        page = await _page(pg, rows)
        for check in ("accounted", "bodies", "keys"):
            findings.look(check, len(rows))
        findings.look("receipts", len(page.receipts))
        for violation in judge(page):
            findings.add(violation)
        if sealed is not None:
            await sealed.compare(rows)
    if sealed is not None:
        await sealed.finish()


async def _page(pg: asyncpg.Connection, rows: Sequence[asyncpg.Record]) -> Page:
    ids = [row["id"] for row in rows]
    altered = await evidence.altered(pg, rows)
    return Page(
        rows=rows,
        queued={row["inbox_id"]: row["rows"] for row in await evidence.queued(pg, ids)},
        dead={row["inbox_id"]: row["rows"] for row in await evidence.dead(pg, ids)},
        receipts=await evidence.receipts(pg, rows),
        keys={row["id"]: row for row in await evidence.keys(pg, rows)},
        altered=altered,
        redacted=frozenset(await evidence.redacted(pg, list(altered))),
    )


async def _require_seals(pg: asyncpg.Connection) -> None:
    if not await pg.fetchval("SELECT to_regclass('relay.seal') IS NOT NULL"):
        raise ConfigError("the schema has no seals yet: run `relay migrate`")


async def _sources(pg: asyncpg.Connection, name: str | None) -> list[int] | None:
    if name is None:
        return None
    found = await evidence.find_source(pg, name)
    if not found:
        raise ConfigError(f"there is no source {name!r}", setting="--source")
    return found


def _midnight(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
