"""The JSON API of sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from litestar import Request, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, UnsetType

from relay.admin import api, source_form, source_words
from relay.admin.answers import Refusal
from relay.admin.schema import Reason
from relay.admin.source_desk import ACTIONS, GRACE, Action, Deleted, NewKey, Shown, SourceDesk
from relay.core.errors import ConfigError
from relay.core.routing import RouteBy
from relay.core.signature import check_secret
from relay.core.source import Mode, Unselected
from relay.store.source_changes import Change

_Asking = Request[Any, Any, Any]
_SUMMARIES: Final[dict[Action, str]] = {
    "pause": "Stop forwarding; it goes on receiving",
    "resume": "Forward again, after a pause or a halt",
}

_SECRETS: Final = ("signing_secrets", "stripe_api_key")


class Sources(msgspec.Struct, frozen=True):
    """All of them, the oldest first."""

    sources: list[Shown]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a source; what is not given is the default, or stays as it is."""

    schema: list[str] | UnsetType = UNSET
    unselected: Unselected | UnsetType = UNSET
    default_topic: str | UnsetType = UNSET
    metadata: bool | UnsetType = UNSET
    fan_out: list[str] | UnsetType = UNSET
    dlq: bool | UnsetType = UNSET
    dlq_topic: str | UnsetType = UNSET
    topic_prefix: str | UnsetType = UNSET
    route_by: RouteBy | UnsetType = UNSET
    tombstones: bool | UnsetType = UNSET
    tolerance: int | UnsetType = UNSET
    mode: Mode | UnsetType = UNSET
    insecure: bool | UnsetType = UNSET
    signing_secrets: list[str] | UnsetType = UNSET
    """All of them from now on."""
    stripe_api_key: str | UnsetType | None = UNSET
    """Null forgets the one that there is."""


class NewSource(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to make, and why."""

    name: str
    reason: str


class SourceChange(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change, and why. Secrets are removed by their last characters, four or more."""

    reason: str
    name: str | UnsetType = UNSET
    add_signing_secrets: list[str] = []
    remove_signing_secrets: list[str] = []


class Rotation(msgspec.Struct, frozen=True):
    """Why, and how long the old keys stay good: 30m, 24h, 3d or 0."""

    reason: str
    grace: str = GRACE


class Deletion(msgspec.Struct, frozen=True):
    """Why, and its name once more. ``discard_pending`` gives up what waits and what is dead."""

    reason: str
    confirm: str
    discard_pending: bool = False


def routes(desk: SourceDesk) -> list[HTTPRouteHandler]:
    """The handlers."""

    @get("/api/sources", responses=api.told(), summary="Sources and how they are doing")
    async def list_sources() -> Sources:
        return Sources(await desk.list_all())

    @get("/api/sources/{name:str}", responses=api.told(404), summary="One, by its name or id")
    async def show_source(name: FromPath[str]) -> Shown:
        return await desk.show(name)

    @post(
        "/api/sources",
        status_code=201,
        responses=api.told_of_change(),
        summary="Make one; its key is answered this once",
    )
    async def create_source(request: _Asking, data: JSONBody[NewSource]) -> NewKey:
        operator = api.operator(request, data.reason)
        with _fields_named():
            return await desk.create(_change(data), data.name, operator)

    @patch(
        "/api/sources/{name:str}",
        responses=api.told_of_change(404),
        summary="Change what is given of its settings and secrets",
    )
    async def change_source(
        request: _Asking, name: FromPath[str], data: JSONBody[SourceChange]
    ) -> Shown:
        operator = api.operator(request, data.reason)
        with _fields_named():
            wanted = _change(data, data.name, data.add_signing_secrets, data.remove_signing_secrets)
            if wanted.is_empty:
                raise Refusal(400, "There is nothing to change: give at least one setting.")
            done = await desk.update(name, wanted, operator)
        return await desk.show(done.source.config.public_id)

    @post(
        "/api/sources/{name:str}/rotate-key",
        status_code=200,
        responses=api.told_of_change(404),
        summary="Make a new key for its URL; it is answered this once",
    )
    async def rotate_key(request: _Asking, name: FromPath[str], data: JSONBody[Rotation]) -> NewKey:
        return await desk.rotate_key(name, data.grace, api.operator(request, data.reason))

    @post(
        "/api/sources/{name:str}/delete",
        status_code=200,
        responses=api.told_of_change(404),
        summary="Close one; what it received stays",
    )
    async def delete_source(
        request: _Asking, name: FromPath[str], data: JSONBody[Deletion]
    ) -> Deleted:
        operator = api.operator(request, data.reason)
        return await desk.delete(name, data.confirm, operator, discard_pending=data.discard_pending)

    return [
        list_sources,
        show_source,
        create_source,
        change_source,
        rotate_key,
        delete_source,
        *(_forwarding(desk, action) for action in ACTIONS),
    ]


def _forwarding(desk: SourceDesk, action: Action) -> HTTPRouteHandler:
    @post(
        f"/api/sources/{{name:str}}/{action}",
        status_code=200,
        responses=api.told_of_change(404),
        summary=_SUMMARIES[action],
        operation_id=f"{action}_source",
    )
    async def change(request: _Asking, name: FromPath[str], data: JSONBody[Reason]) -> Shown:
        done = await desk.set_forwarding(name, action, api.operator(request, data.reason))
        return await desk.show(done.config.public_id)

    return change


def _change(
    data: Settings,
    name: str | UnsetType = UNSET,
    added: Sequence[str] = (),
    removed: Sequence[str] = (),
) -> Change:
    settings: dict[str, Any] = {} if name is UNSET else {"name": name}
    for field in Settings.__struct_fields__:
        value = getattr(data, field)
        if value is not UNSET and field not in _SECRETS:
            known = "resources" if field == "schema" else field
            settings[known] = tuple(value) if isinstance(value, list) else value
    secrets, key = data.signing_secrets, data.stripe_api_key
    return Change(
        settings=settings,
        signing_secrets=None if isinstance(secrets, UnsetType) else _checked(secrets),
        added=_checked(added),
        removed=tuple(removed),
        stripe_api_key=source_form.given_stripe_key(key) if isinstance(key, str) else None,
        forget_stripe_key=key is None,
    )


def _checked(secrets: Sequence[str]) -> tuple[str, ...]:
    for secret in secrets:
        check_secret(secret)
    return tuple(dict.fromkeys(secret.strip() for secret in secrets))


@contextmanager
def _fields_named() -> Iterator[None]:
    """Whatever is wrong is told by the fields of the API."""
    try:
        yield
    except ConfigError as error:
        raise Refusal(400, source_words.for_programs(error)) from error
