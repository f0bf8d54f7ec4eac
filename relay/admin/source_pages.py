"""The pages about sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from relay.admin import api, source_form, source_words
from relay.admin.answers import Refusal
from relay.admin.pages import fields_of, form_of, page, see
from relay.admin.source_desk import (
    ACTIONS,
    GRACE,
    Action,
    NewKey,
    SourceDesk,
    possible_action,
    version_of,
)
from relay.admin.source_form import Form, Wrong, settings_of
from relay.admin.templates import link
from relay.core.catalog import FAN_OUTS, RESOURCES
from relay.core.errors import ConfigError
from relay.core.routing import RouteBy
from relay.core.source import Mode, SourceConfig, Unselected
from relay.store.source_changes import Change

_Asking = Request[Any, Any, Any]
_PRESET: Final = SourceConfig(source_id=0, public_id="", name="")

Reader = Callable[[Mapping[str, str]], Change]


def routes(desk: SourceDesk) -> list[HTTPRouteHandler]:
    """The handlers."""

    @get("/sources", include_in_schema=False)
    async def list_sources(request: _Asking) -> Response[str]:
        return page(
            request,
            "sources.html",
            found=await desk.list_all(),
            did=request.query_params.get("did"),
        )

    @get("/sources/new", include_in_schema=False)
    async def ask(request: _Asking) -> Response[str]:
        return _filled(request, source_form.of_config(_PRESET))

    @post("/sources", include_in_schema=False)
    async def create(request: _Asking) -> Response[str]:
        fields = await fields_of(request)
        form = source_form.of_fields(fields)
        try:
            operator = api.operator(request, form.reason)
            wanted = Change(
                settings=settings_of(form),
                signing_secrets=source_form.signing_secrets(_last(fields, "signing_secrets")),
                stripe_api_key=source_form.stripe_key(_last(fields, "stripe_api_key")),
            )
            made = await desk.create(wanted, form.name, operator)
        except (ConfigError, Refusal) as error:
            return _filled(request, form, source_form.wrong_of(error))
        return _shown_once(request, desk, made)

    @get("/sources/{name:str}", include_in_schema=False)
    async def show(request: _Asking, name: FromPath[str]) -> Response[str]:
        found = await desk.show(name)
        return page(
            request,
            "source.html",
            source=found,
            newest_key=await desk.newest_key(found.id),
            possible=possible_action(found.state),
            labels=source_words.LABELS,
            knows_its_url=desk.knows_its_url,
            grace=GRACE,
            did=request.query_params.get("did"),
        )

    @get("/sources/{name:str}/edit", include_in_schema=False)
    async def edit(request: _Asking, name: FromPath[str]) -> Response[str]:
        found = await desk.find(name)
        form = source_form.of_config(found.config, seen=version_of(found))
        return _filled(request, form, of=found.config)

    @post("/sources/{name:str}/edit", include_in_schema=False)
    async def change(request: _Asking, name: FromPath[str]) -> Response[Any]:
        form = source_form.of_fields(await fields_of(request))
        found = await desk.find(name)
        try:
            operator = api.operator(request, form.reason)
            wanted = Change(settings=settings_of(form, found.config))
            await desk.update(found.config.public_id, wanted, operator, seen=form.seen)
        except (ConfigError, Refusal) as error:
            # What is sent after this message is sent in the knowledge of what is there now.
            typed = source_form.seen_again(form, version_of(found))
            return _filled(request, typed, source_form.wrong_of(error), of=found.config)
        return see(link(f"/sources/{found.config.public_id}", did="edit"))

    @post("/sources/{name:str}/rotate-key", include_in_schema=False)
    async def rotate_key(request: _Asking, name: FromPath[str]) -> Response[str]:
        form = await form_of(request)
        # The page that shows a key answers the POST itself: sent again, it must make no other one.
        made = await desk.rotate_key(
            name,
            form.get("grace", GRACE),
            api.operator(request, form.get("reason")),
            newest=form.get("newest_key", ""),
        )
        return _shown_once(request, desk, made)

    @post("/sources/{name:str}/delete", include_in_schema=False)
    async def delete(request: _Asking, name: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        await desk.delete(
            name, form.get("confirm", ""), operator, discard_pending="discard_pending" in form
        )
        return see(link("/sources", did="delete"))

    return [
        list_sources,
        ask,
        create,
        show,
        edit,
        change,
        rotate_key,
        delete,
        *(_forwarding(desk, action) for action in ACTIONS),
        *(_secrets(desk, action, read) for action, read in _SECRETS.items()),
    ]


def _forwarding(desk: SourceDesk, action: Action) -> HTTPRouteHandler:
    @post(f"/sources/{{name:str}}/{action}", include_in_schema=False)
    async def change(request: _Asking, name: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        done = await desk.set_forwarding(name, action, operator)
        return see(link(f"/sources/{done.config.public_id}", did=action))

    return change


def _secrets(desk: SourceDesk, action: str, read: Reader) -> HTTPRouteHandler:
    @post(f"/sources/{{name:str}}/{action}", include_in_schema=False)
    async def change(request: _Asking, name: FromPath[str]) -> Response[None]:
        form = await form_of(request)
        operator = api.operator(request, form.get("reason"))
        try:
            done = await desk.update(name, read(form), operator)
        except ConfigError as error:
            raise Refusal(400, source_words.for_people(error)) from error
        return see(link(f"/sources/{done.source.config.public_id}", did=action))

    return change


def _insecure(form: Mapping[str, str]) -> dict[str, Any]:
    return {"insecure": True} if "insecure" in form else {}


def _given(form: Mapping[str, str]) -> tuple[str, ...]:
    found = source_form.signing_secrets(form.get("signing_secrets", ""))
    if not found:
        raise ConfigError("--signing-secret is blank", setting="--signing-secret")
    return found


_SECRETS: Final[dict[str, Reader]] = {
    "add-secret": lambda form: Change(added=_given(form)),
    "replace-secrets": lambda form: Change(signing_secrets=_given(form)),
    "remove-secret": lambda form: Change(
        removed=(form.get("ending", ""),), settings=_insecure(form)
    ),
    "set-stripe-key": lambda form: Change(
        stripe_api_key=source_form.given_stripe_key(form.get("stripe_api_key", ""))
    ),
    "forget-stripe-key": lambda form: Change(forget_stripe_key=True),
}


def _last(fields: Mapping[str, list[str]], name: str) -> str:
    return fields.get(name, [""])[-1]


def _filled(
    request: _Asking, form: Form, wrong: Wrong | None = None, *, of: SourceConfig | None = None
) -> Response[str]:
    """The form of a source, or that of a new one."""
    return page(
        request,
        "source_form.html",
        status=200 if wrong is None else wrong.status,
        form=form,
        wrong=wrong,
        of=of,
        labels=source_words.LABELS,
        categories=RESOURCES,
        fan_outs=tuple(FAN_OUTS),
        choices={
            "unselected": get_args(Unselected),
            "route_by": get_args(RouteBy),
            "mode": get_args(Mode),
        },
    )


def _shown_once(request: _Asking, desk: SourceDesk, made: NewKey) -> Response[str]:
    return page(request, "source_key.html", made=made, knows_its_url=desk.knows_its_url)
