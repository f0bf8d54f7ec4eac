"""Whether this process is alive, and whether it should be sent requests."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler

from relay.store import durability, schema
from relay.store.engine import Database
from relay.store.trouble import explain

_CHECK_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 3.0
"""What a probe has to wait at most."""
_FRESH_SECONDS: Final = 1.0
_METHODS: Final = [HttpMethod.GET, HttpMethod.HEAD]


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that has to be right, and why it is not."""

    ok: bool
    reason: str | None = None


class Readiness(msgspec.Struct, frozen=True):
    ready: bool
    checks: dict[str, Check]


class Health:
    """Answers /livez and /readyz; shared by the receiver's port and the admin port.

    Kafka is left out on purpose: while it is away, events are still received.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._faults: dict[str, str] = {}
        self._checked_at = -float("inf")
        self._checking: asyncio.Task[None] | None = None
        self.draining = False

    async def check(self) -> Readiness:
        """The state of every check, at most a second old: probes of many must cost little."""
        if asyncio.get_running_loop().time() - self._checked_at > _FRESH_SECONDS:
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._look(), name="relay-health")
            # Not cancelled when it takes longer: it has its own end, and its answer counts then.
            done, _ = await asyncio.wait({self._checking}, timeout=_ANSWER_SECONDS)
            if not done:
                self._faults = {"database": f"no answer in {_ANSWER_SECONDS:g} s"}
        checks = {
            name: Check(name not in self._faults, self._faults.get(name))
            for name in ("database", "writable", "durability", "schema")
        }
        checks["draining"] = Check(False, "shutting down") if self.draining else Check(True)
        return Readiness(all(check.ok for check in checks.values()), checks)

    async def _look(self) -> None:
        try:
            async with self._database.begin(_CHECK_SECONDS) as connection:
                faults = await durability.find_faults(
                    connection, several_hosts=self._database.has_several_hosts
                )
                status = await schema.revision_status(connection)
                if not status.usable:
                    faults["schema"] = status.reason or "unusable"
            if "writable" in faults:
                # Behind a name that moves, a new connection may get to the host that is.
                await self._database.discard_pool()
        except Exception as error:
            # Not its message, which may hold the address: a stranger may ask.
            reason = explain(error) or type(error).__name__
            faults = {"database": f"cannot be reached ({reason})"}
        self._faults = faults
        self._checked_at = asyncio.get_running_loop().time()

    def routes(self) -> list[HTTPRouteHandler]:
        """Litestar handlers for both paths."""

        @route("/livez", http_method=_METHODS, include_in_schema=False)
        async def livez() -> dict[str, bool]:
            return {"alive": True}

        @route("/readyz", http_method=_METHODS, include_in_schema=False)
        async def readyz() -> Response[Readiness]:
            readiness = await self.check()
            return Response(readiness, status_code=200 if readiness.ready else 503)

        return [livez, readyz]
