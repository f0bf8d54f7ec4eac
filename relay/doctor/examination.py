"""All checks, one after the other: none of them can hold up or end the others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg

from relay.core.errors import RelayError
from relay.display import redact
from relay.doctor import (
    configuration,
    server,
    sessions,
    sources,
    stripe,
    topic_settings,
    topics,
    upkeep,
)
from relay.doctor.check import Check
from relay.doctor.finding import Finding, Result, failed, skipped
from relay.doctor.patient import Patient
from relay.store.trouble import cause_of

CHECKS: Final[tuple[Check, ...]] = (
    *configuration.CHECKS,
    *server.CHECKS,
    *sessions.CHECKS,
    *upkeep.CHECKS,
    *topics.CHECKS,
    *topic_settings.CHECKS,
    *sources.CHECKS,
    *stripe.CHECKS,
)

CHECK_SECONDS: Final = 15.0
"""For one check; those that ask Kafka ask it a few times, at most 5 s each."""


async def examine(patient: Patient, checks: Iterable[Check] = CHECKS) -> list[Result]:
    """What every check has found, in their order."""
    results: list[Result] = []
    # What could not be looked at is no ground for others to stand on; and why that was so.
    useless: dict[str, str] = {}
    for check in checks:
        missing = [useless[name] for name in check.needs if name in useless]
        found = [skipped(f"needs {missing[0]}")] if missing else await _run(check, patient)
        if all(each.verdict in ("failed", "skipped") for each in found):
            useless[check.name] = missing[0] if missing else check.name
        results += [
            Result(
                check.name, each.verdict, redact(each.reason, patient.settings.secrets()), each.fix
            )
            for each in found
        ]
    return results


async def _run(check: Check, patient: Patient) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            found = await check.examine(patient)
    except Exception as error:
        return [_of_error(error)]
    return [found] if isinstance(found, Finding) else found


def _of_error(error: Exception) -> Finding:
    """A check that could not do its work."""
    cause = cause_of(error)
    text = " ".join(str(cause).split())
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return skipped(f"the role of RELAY_DATABASE_URL may not see it: {text}", _right(text))
    if isinstance(error, RelayError):
        return failed(error.message, "see the reason")
    if isinstance(cause, TimeoutError | asyncpg.QueryCanceledError):
        return failed("no answer in time", "is the server overloaded, or a lock held? Try again")
    return failed(
        f"the check itself failed: {type(cause).__name__}: {text}",
        "if the reason is not outside of relay, report it",
    )


def _right(text: str) -> str:
    """Whose rights are enough; never advice to give more to a service."""
    fix = "run `relay doctor` as a member of relay_admin"
    found = re.search(r"permission denied for (table|view|function|schema) (\w+)", text)
    if found is None:
        return fix
    kind, name = found.groups()
    rights = {
        "schema": f"USAGE ON SCHEMA {name}",
        "function": f"EXECUTE ON FUNCTION relay.{name}",
    }
    return f"{fix}, which has {rights.get(kind, f'SELECT ON relay.{name}')}"
