"""Steering the fake from another process: `/_fake/…` with JSON both ways.

    GET    /_fake/traffic                       requests, peaks per second, answers by status
    PUT    /_fake/faults    [{"kind":…}, …]     replaces the faults in force
    PUT    /_fake/limits    {"account":25}      replaces the rate limits
    GET    /_fake/objects/RESOURCE              {"objects":[[id, created], …], "deleted":[id, …]}
    POST   /_fake/objects/RESOURCE              {"count":300, "created":1780000000}: creates
    DELETE /_fake/objects/RESOURCE              {"ids":[…]} or {"count":3}: deletes

Of the own account's test mode. What is not known is answered 404, wrong input 400.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from relay.dev.stripe_api.dataset import Account, Resource
from relay.dev.stripe_api.faults import Fault, Faults
from relay.dev.stripe_api.limits import Limits, Traffic

CONTROL: Final = "/_fake/"


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 1
    created: int | None = None


class _Delete(msgspec.Struct, forbid_unknown_fields=True):
    ids: tuple[str, ...] = ()
    count: int = 0


class Control:
    """Answers in JSON."""

    def __init__(
        self, account: Account, traffic: Traffic, faults: Faults, clock: Callable[[], float]
    ) -> None:
        self._resources = account.resources
        self._traffic = traffic
        self._faults = faults
        self._clock = clock

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """The status, and the JSON."""
        what, _, name = path.removeprefix(CONTROL).partition("/")
        try:
            match method, what:
                case "GET", "traffic":
                    answer = self._describe_traffic()
                case "PUT", "faults":
                    self._faults.all = msgspec.json.decode(body, type=list[Fault])
                    answer = {"faults": self._faults.all}
                case "PUT", "limits":
                    self._traffic.limits = msgspec.json.decode(body, type=Limits)
                    answer = {"limits": self._traffic.limits}
                case "GET", "objects":
                    answer = _describe(self._resources[name])
                case "POST", "objects":
                    wish = msgspec.json.decode(body, type=_Create)
                    answer = {"ids": self._create(self._resources[name], wish)}
                case "DELETE", "objects":
                    gone = msgspec.json.decode(body, type=_Delete)
                    answer = {"ids": _delete(self._resources[name], gone)}
                case _:
                    return 404, b"{}"
        except (msgspec.DecodeError, KeyError) as error:
            return 400, msgspec.json.encode({"error": repr(error)})
        return 200, msgspec.json.encode(answer)

    def _describe_traffic(self) -> dict[str, Any]:
        traffic = self._traffic
        return {
            "requests": traffic.requests(),
            "peak": traffic.peak(),
            "statuses": {str(status): count for status, count in traffic.statuses.items()},
            "faults": self._faults.happened,
            "resources": {
                name: {
                    "requests": traffic.requests(name),
                    "peak": traffic.peak(resource=name),
                }
                for name in traffic.resources()
            },
        }

    def _create(self, resource: Resource, wish: _Create) -> list[str]:
        created = int(self._clock()) if wish.created is None else wish.created
        return [resource.create(created).id for _ in range(wish.count)]


def _describe(resource: Resource) -> dict[str, Any]:
    objects = [(row.id, row.created) for row in resource.rows()]
    return {"objects": objects, "deleted": resource.deleted}


def _delete(resource: Resource, wish: _Delete) -> list[str]:
    for object_id in wish.ids:
        resource.delete(object_id)
    drawn = [resource.delete_random() for _ in range(wish.count)]
    return [*wish.ids, *(object_id for object_id in drawn if object_id is not None)]
