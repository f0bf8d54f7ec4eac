"""What keeps PostgreSQL going: partitions, retention, vacuum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, failed, listed, ok, skipped, span, warning
from relay.doctor.patient import Patient
from relay.doctor.server import REACHABLE, SCHEMA
from relay.store import partitions, server, traffic, vitals
from relay.store.server import READS_STATISTICS
from relay.store.traffic import PartitionState
from relay.store.vitals import Holder, Vacuum

LONG_TRANSACTION_SECONDS: Final = 300.0
"""No batch of ours lasts longer than half a minute."""
LONG_TRANSACTION_AGE: Final = 1_000_000
MANY_DEAD_ROWS: Final = 500_000
FROZEN_WARNING: Final = 1_000_000_000
FROZEN_FAILURE: Final = 1_800_000_000
"""Transactions; at 2 billion PostgreSQL stops taking writes."""

_HOUSEKEEPING = (
    "is a `relay serve` running? Its log tells what housekeeping (janitor) misses; `relay"
    " housekeeping` does a round of it"
)


async def _partitions(patient: Patient) -> Findings:
    days = patient.settings.retention_days
    return judge_partitions(await patient.recall(_partition_state), retention_days=days)


async def _partition_state(patient: Patient) -> PartitionState:
    async with patient.driver() as pg:
        return await traffic.partition_state(pg, retention_days=patient.settings.retention_days)


def judge_partitions(found: PartitionState, *, retention_days: int) -> Finding:
    """Housekeeping keeps two partitions ahead, each as wide as the retention asks for."""
    if found.ahead is None or found.ahead <= 0:
        return failed("no partition of the inbox takes what is received now", _HOUSEKEEPING)
    if found.gap is not None:
        return failed(
            f"a partition of the inbox is missing from {span(found.gap)} on: what is received then"
            " is answered 503",
            _HOUSEKEEPING,
        )
    if found.ahead < partitions.width(retention_days).total_seconds():
        return warning(
            f"the inbox has partitions for {span(found.ahead)} only, and housekeeping does not"
            " make more",
            _HOUSEKEEPING,
        )
    return ok(f"for {span(found.ahead)} ahead")


async def _retention(patient: Patient) -> Findings:
    days = patient.settings.retention_days
    return judge_retention(await patient.recall(_partition_state), retention_days=days)


def judge_retention(found: PartitionState, *, retention_days: int) -> Finding:
    if retention_days == 0:
        return ok("everything is kept (RELAY_RETENTION_DAYS is 0)")
    if found.overdue:
        oldest = "" if found.oldest_overdue is None else f", from {found.oldest_overdue:%Y-%m-%d}"
        return warning(
            f"{found.overdue} partitions{oldest} on, are older than {retention_days} days and not"
            " dropped",
            "finish what is unfinished in them (`relay dlq list`, `relay events list`), end old"
            " transactions, and let the owner of the tables keep house (`relay housekeeping`)",
        )
    return ok(f"nothing is older than {retention_days} days and a partition")


async def _horizon(patient: Patient) -> Findings:
    role = await patient.ask(server.role)
    found = await patient.ask(vitals.holders)
    return judge_horizon(found, reads_statistics=role.reads_statistics, role=role.name)


def judge_horizon(found: Sequence[Holder], *, reads_statistics: bool, role: str) -> list[Finding]:
    """Vacuum cannot remove what died after the oldest of them began."""
    old = [
        holder
        for holder in found
        if (holder.seconds or 0) > LONG_TRANSACTION_SECONDS
        or (holder.seconds is None and (holder.age or 0) > LONG_TRANSACTION_AGE)
    ]
    findings = [_of_holder(holder) for holder in old[:3]]
    hidden = [h for h in found if h.kind == "session" and h.seconds is None]
    if hidden and not reads_statistics:
        findings.append(
            skipped(
                f"since when {len(hidden)} transactions of other roles are open, {role} cannot see",
                f'GRANT {READS_STATISTICS} TO "{role}"',
            )
        )
    return findings or [ok("no old transaction holds back vacuum")]


def _of_holder(holder: Holder) -> Finding:
    since = f"since {span(holder.seconds)}" if holder.seconds else f"for {holder.age} transactions"
    effect = "vacuum removes nothing that died after it began: the queue grows and claims get slow"
    match holder.kind:
        case "session":
            who = " of ".join(filter(None, (holder.application_name, holder.role))) or "a session"
            state = f", {holder.state}" if holder.state else ""
            return warning(
                f"pid {holder.name} ({who}{state}) has a transaction open {since}: {effect}",
                f"end it: SELECT pg_terminate_backend({holder.name})",
            )
        case "prepared transaction":
            return warning(
                f"the prepared transaction {holder.name!r} is open {since}: {effect}",
                f"ROLLBACK PREPARED '{holder.name}', or COMMIT PREPARED",
            )
        case _:
            return warning(
                f"the replication slot {holder.name!r} ({holder.state}) holds rows {since}:"
                f" {effect}",
                "start its reader, or SELECT pg_drop_replication_slot(…)",
            )


async def _autovacuum(patient: Patient) -> Findings:
    return judge_autovacuum(await patient.ask(vitals.vacuum))


def judge_autovacuum(found: Vacuum) -> list[Finding]:
    findings = []
    if not found.enabled:
        findings.append(
            warning(
                "autovacuum (or track_counts) is off: the queue grows for ever",
                "ALTER SYSTEM SET autovacuum = on and track_counts = on, then reload",
            )
        )
    off = [each.table for each in found.tables if not each.enabled]
    if off:
        findings.append(
            warning(
                f"autovacuum is switched off for {listed(off)}",
                "; ".join(f"ALTER TABLE relay.{t} RESET (autovacuum_enabled)" for t in off[:3]),
            )
        )
    dead = [each for each in found.tables if each.dead > MANY_DEAD_ROWS]
    for each in dead:
        when = "never" if each.vacuumed_at is None else f"last on {each.vacuumed_at:%Y-%m-%d %H:%M}"
        findings.append(
            warning(
                f"{each.table} has {each.dead} dead rows and was vacuumed {when}",
                f"see postgres.vacuum_horizon; else VACUUM relay.{each.table}",
            )
        )
    most = max((each.dead for each in found.tables), default=0)
    return findings or [ok(f"on; at most {most} dead rows in a table")]


async def _wraparound(patient: Patient) -> Findings:
    return judge_wraparound((await patient.ask(server.server)).frozen_age)


def judge_wraparound(age: int) -> Finding:
    reason = f"the oldest row that is not frozen is {age / 1e6:.0f} million transactions old"
    fix = "end what holds back vacuum (postgres.vacuum_horizon), then VACUUM the database"
    if age > FROZEN_FAILURE:
        return failed(f"{reason}: PostgreSQL is about to stop taking writes", fix)
    if age > FROZEN_WARNING:
        return warning(reason, fix)
    return ok(f"{age / 2e7:.0f} % of the way to where PostgreSQL would stop")


CHECKS = (
    Check("postgres.partitions", _partitions, SCHEMA),
    Check("postgres.retention", _retention, SCHEMA),
    Check("postgres.vacuum_horizon", _horizon, REACHABLE),
    Check("postgres.autovacuum", _autovacuum, REACHABLE),
    Check("postgres.wraparound", _wraparound, REACHABLE),
)
