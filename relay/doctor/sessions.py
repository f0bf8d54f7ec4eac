"""The sessions that relay has with PostgreSQL: what is between, how many there may be, and for how
long they may do what.
"""

from __future__ import annotations

from typing import Final, Literal

from relay.doctor.check import Check, Findings
from relay.doctor.finding import Finding, ok, skipped, warning
from relay.doctor.patient import Patient
from relay.doctor.server import REACHABLE
from relay.settings import Settings, postgres
from relay.store import server
from relay.store.engine import MAX_OVERFLOW
from relay.store.server import Server

SHORT_STATEMENT_SECONDS: Final = 5.0
SHORT_LOCK_SECONDS: Final = 1.0

Pooler = Literal["none", "transaction", "unknown"]


async def _pooler(patient: Patient) -> Findings:
    return judge_pooler(await patient.recall(_look_for_pooler))


async def _look_for_pooler(patient: Patient) -> Pooler:
    if not await patient.database.is_pooled():
        return "none"
    async with patient.database.driver() as one, patient.database.driver() as other:
        return "transaction" if await server.shares_backends(one, other) else "unknown"


def judge_pooler(found: Pooler) -> Finding:
    if found == "none":
        return ok("none: sessions go straight to the server")
    told = {
        "transaction": "a pooler in transaction mode is between",
        "unknown": "a pooler is between, in session mode or too busy to tell",
    }[found]
    return ok(
        f"{told}: services work through it, without prepared statements; a forwarder keeps a server"
        " connection for as long as a batch lasts; `relay migrate` wants a direct connection"
    )


async def _connections(patient: Patient) -> Findings:
    return judge_connections(await patient.ask(server.server), patient.settings)


def judge_connections(found: Server, settings: Settings) -> Finding:
    needed = settings.database_pool_size + MAX_OVERFLOW
    limits = {
        "max_connections": found.max_connections - found.reserved_connections,
        "the role's CONNECTION LIMIT": found.role_connection_limit,
        "the database's CONNECTION LIMIT": found.database_connection_limit,
    }
    for name, limit in limits.items():
        if 0 <= limit < needed:
            return warning(
                f"{name} leaves {limit} connections, and one process may open {needed}",
                f"raise it to {needed} for each process and some more, or put a pooler between",
            )
    free = limits["max_connections"] - found.connections
    if free < needed:
        return warning(
            f"{found.connections} of {limits['max_connections']} connections are taken, and one"
            f" process may open {needed}",
            "raise max_connections, end what is idle, or put a pooler between",
        )
    return ok(f"{free} of {limits['max_connections']} are free, and one process may open {needed}")


async def _tls(patient: Patient) -> Findings:
    mode = postgres.tls_mode(patient.settings.require_database_url())
    pooler = await patient.recall(_look_for_pooler)
    return judge_tls(await patient.ask(server.server), mode=mode, pooler=pooler)


def judge_tls(found: Server, *, mode: str, pooler: Pooler) -> Finding:
    """``mode`` is the URL's sslmode. The server knows of its own end of the way only."""
    verified = mode in ("verify-full", "verify-ca")
    if pooler != "none" and not verified:
        return skipped(
            "a pooler is between, and PostgreSQL knows only how the pooler comes to it",
            "put sslmode=verify-full into RELAY_DATABASE_URL unless the pooler is on this machine",
        )
    if verified:
        return ok(f"in use, and the server is verified (sslmode={mode})")
    if found.local:
        return ok("the server is on this machine")
    if not found.encrypted:
        return warning(
            "events and the password cross the network in the clear",
            "switch ssl on at the server, and put sslmode=verify-full into RELAY_DATABASE_URL",
        )
    return warning(
        f"in use, but with sslmode={mode} anybody in between can pose as the server",
        "put sslmode=verify-full (and sslrootcert) into RELAY_DATABASE_URL",
    )


async def _timeouts(patient: Patient) -> Findings:
    return judge_timeouts(await patient.ask(server.server), patient.settings)


def judge_timeouts(found: Server, settings: Settings) -> list[Finding]:
    """Those that PostgreSQL would end our work with, as this role gets them."""
    batch = settings.batch_timeout_seconds
    least = {
        "statement_timeout": (found.statement_timeout, SHORT_STATEMENT_SECONDS),
        "lock_timeout": (found.lock_timeout, SHORT_LOCK_SECONDS),
        # While its records are on their way, the transaction of a batch is idle.
        "idle_in_transaction_session_timeout": (found.idle_timeout, batch),
        "transaction_timeout": (found.transaction_timeout, batch),
    }
    findings = [
        warning(
            f"{name} is {value:g} s for this role: it would end work that takes longer, and events"
            " would be sent twice",
            f"set it to {limit:g} s or more, or to 0 (ALTER ROLE … SET {name} = 0)",
        )
        for name, (value, limit) in least.items()
        if 0 < value < limit
    ]
    return findings or [ok("none that would end our work")]


CHECKS = (
    Check("postgres.pooler", _pooler, REACHABLE),
    Check("postgres.connections", _connections, REACHABLE),
    Check("postgres.tls", _tls, REACHABLE),
    Check("postgres.timeouts", _timeouts, REACHABLE),
)
