"""What is answered when something is wrong: a page for people, ``{"error","detail"}`` for programs.

Nothing that a client can send may end in a 5xx; the database being away may.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import ExceptionHandlersMap, Scope

from relay.admin import templates
from relay.admin.access import Access
from relay.core.errors import ConfigError, RelayError
from relay.store.failures import DATABASE_FAILURES, is_outage
from relay.store.trouble import cause_of, explain

_log: Final = structlog.get_logger("relay.admin")

JSON_PATHS: Final = ("/api", "/schema")
_WORDS: Final = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    500: "internal_error",
    503: "unavailable",
}
_TITLES: Final = {
    401: "Log in first",
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    429: "Too many requests",
    500: "Something went wrong here",
    503: "Not available",
}


class Refusal(RelayError):  # noqa: N818 - an answer, and no fault of ours
    """A request cannot be answered as it is; the message names the thing and the fix."""

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code or _WORDS[status])
        self.status = status


class Problem(msgspec.Struct, frozen=True):
    """What was wrong: a word that does not change, and a sentence for people."""

    error: str
    detail: str


def wants_json(path: str) -> bool:
    """Whether a program asks."""
    return any(path == each or path.startswith(f"{each}/") for each in JSON_PATHS)


def render(path: str, refusal: Refusal, access: Access | None) -> tuple[str, bytes]:
    """The media type and the content of the answer."""
    if wants_json(path):
        problem = Problem(refusal.code, refusal.message)
        return "application/json", msgspec.json.encode(problem)
    title = _TITLES.get(refusal.status, "That does not work")
    page = templates.render("problem.html", access, title=title, problem=refusal)
    return "text/html", page.encode("utf-8")


def access_of(scope: Scope) -> Access | None:
    """What the gate found out about who asks."""
    found: Access | None = scope["state"].get("access")
    return found


def refusal_of(error: Exception, method: str) -> Refusal:
    """The answer that an exception comes to."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return _of_litestar(error)
    if isinstance(error, ConfigError):
        return Refusal(400, error.message)
    if isinstance(error, DATABASE_FAILURES):
        found = _of_database(error, method)
        if found is not None:
            return found
    _log.error("admin.failed", exc_info=error)
    return Refusal(500, "This is a mistake of relay's; its log has the details.")


def _of_litestar(error: HTTPException) -> Refusal:
    status = error.status_code if error.status_code in _WORDS else 400
    if status == 404:
        return Refusal(404, "There is nothing at this address.")
    if status == 500:
        _log.error("admin.failed", exc_info=error)
        return Refusal(500, "This is a mistake of relay's; its log has the details.")
    extra: Any = error.extra
    details = [f"{each.get('key', 'request')}: {each['message']}" for each in extra or ()]
    return Refusal(status, "; ".join(details) or error.detail)


def _of_database(error: Exception, method: str) -> Refusal | None:
    cause = cause_of(error)
    if isinstance(cause, asyncpg.QueryCanceledError):
        if method == "GET":
            return Refusal(
                400,
                "This takes too long to look for: narrow it down, by an object, a state or a time.",
                code="too_broad",
            )
        return _busy()
    if isinstance(cause, asyncpg.LockNotAvailableError | asyncpg.DeadlockDetectedError):
        return _busy()
    if isinstance(cause, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
        return Refusal(
            503, "The database has no schema of relay, or an older one: `relay migrate`."
        )
    if isinstance(cause, asyncpg.InsufficientPrivilegeError):
        return Refusal(
            503, "The role in RELAY_DATABASE_URL may not do this: it must be in relay_admin."
        )
    if is_outage(error):
        # Not its message, which may hold the address.
        reason = explain(error) or type(cause).__name__
        return Refusal(503, f"The database cannot be reached ({reason}).", code="database_away")
    return None


def _busy() -> Refusal:
    return Refusal(409, "It is in hand at this moment: try again.", code="busy")


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    refusal = refusal_of(error, request.method)
    media_type, content = render(request.url.path, refusal, access_of(request.scope))
    headers = error.headers if isinstance(error, MethodNotAllowedException) else None
    return Response(content, status_code=refusal.status, media_type=media_type, headers=headers)


HANDLERS: ExceptionHandlersMap = {Exception: _answer}
