"""The gate in front of the dashboard and the API: who asks, from where, and whether he may.

Whatever is not health, metrics, the login or a static file needs a role; whatever changes something
needs the operator's, and proof that no other site made the browser ask. A new page is behind it by
being there.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Final, cast
from urllib.parse import parse_qs, quote, urlsplit

from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
    WebSocketReceiveMessage,
)

from relay.admin import answers, templates
from relay.admin.access import SESSION_SECONDS, Access, Throttle, Tokens, name_of
from relay.admin.answers import Refusal
from relay.core import tokens

# As without the role admin: whoever reaches the port may look.
_PROBED: Final = frozenset({"/livez", "/readyz", "/metrics"})
_FILES: Final = "/static/"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
MOST_BYTES: Final = 64 * 1024
"""Of what a form or a call of the API brings."""
_DEEPEST: Final = 20
_PATIENCE_SECONDS: Final = 10.0

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Nothing for others. With no-referrer browsers would call the origin of our own forms "null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")


class Gate:
    """An ASGI application in front of another one; what it found out is in the state."""

    def __init__(self, app: ASGIApp, tokens: Tokens, throttle: Throttle) -> None:
        self._app = app
        self._tokens = tokens
        self._throttle = throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["path"] in _PROBED:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        request = Asked(scope)
        send = _with_headers(send, request)
        try:
            receive = await self._admit(request, receive)
        except Refusal as refusal:
            await _answer(request, refusal, send)
            return
        await self._app(scope, receive, send)

    async def _admit(self, request: Asked, receive: Receive) -> Receive:
        """Raises Refusal; returns what the application reads the body from."""
        if self._tokens.is_open and not is_loopback(request.host):
            raise Refusal(
                403,
                f"Without RELAY_ADMIN_TOKEN this answers to localhost alone, not to"
                f" {request.host!r}: set a token to use another name.",
                code="wrong_host",
            )
        access = await self._access(request)
        request.scope["state"]["access"] = access
        is_free = request.path == "/login" or request.path.startswith(_FILES)
        if access is None and not is_free:
            raise Refusal(401, "Log in, or send `Authorization: Bearer <token>`.")
        if request.method in _SAFE:
            return receive
        is_own = is_free or request.path == "/logout"
        if access is not None and not access.may_change and not is_own:
            raise Refusal(
                403, "A viewer may not change anything: log in with the operator's token."
            )
        body = await _read(receive)
        if body and answers.wants_json(request.path):
            _check_json(body)
        if access is None or access.csrf is not None:
            _check_origin(request)
        if access is not None and access.csrf is not None and not is_free:
            _check_csrf(request, body, access.csrf)
        return _again(body, receive)

    async def _access(self, request: Asked) -> Access | None:
        scheme, _, token = request.header("authorization").partition(" ")
        if scheme.lower() == "bearer":
            return await self._of_token(request, token.strip())
        access = self._tokens.read(request.cookie)
        if access is None and self._tokens.is_open and not request.path.startswith(_FILES):
            request.new_session = self._tokens.begin("operator")
            access = self._tokens.read(request.new_session)
        return access

    async def _of_token(self, request: Asked, token: str) -> Access:
        if self._tokens.is_open:
            return Access(role="operator", is_open=True, name=request.name)
        if self._throttle.is_closed(request.address):
            raise too_often()
        role = self._tokens.role_of(token)
        if role is None:
            await self._throttle.fail(request.address)
            raise Refusal(401, "The token is not one of this relay.")
        return Access(role=role, name=request.name)


class Asked:
    """What the gate looks at of a request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.method = str(cast("HTTPScope", scope)["method"])
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self.new_session: str | None = None

    def header(self, name: str) -> str:
        return self._headers.get(name.encode(), b"").decode("latin-1")

    @property
    def url(self) -> str:
        """The path and the query, as they were sent."""
        path = self.scope["raw_path"].partition(b"?")[0].decode("latin-1")
        query = self.scope["query_string"].decode("latin-1")
        return f"{path}?{query}" if query else path

    @property
    def host(self) -> str:
        """The Host header without its port."""
        try:
            return urlsplit(f"//{self.header('host')}").hostname or ""
        except ValueError:
            return ""

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def name(self) -> str:
        """Who a program says that it is."""
        text = self.header("x-relay-operator").encode("latin-1")
        return name_of(text.decode("utf-8", "replace"))

    @property
    def is_secure(self) -> bool:
        """Whether the browser came by https, to us or to a proxy before us."""
        return (
            self.scope["scheme"] == "https"
            or self.header("x-forwarded-proto").lower() == "https"
            or self.header("origin").startswith("https://")
        )

    @property
    def cookie_name(self) -> str:
        """One per port: a browser sends a host's cookies to every port of it, as of tunnels."""
        port = self.header("host").rpartition("]")[2].rpartition(":")[2]
        return f"relay_session_{port}" if port.isdigit() else "relay_session"

    @property
    def cookie(self) -> str:
        try:
            found = SimpleCookie(self.header("cookie")).get(self.cookie_name)
        except CookieError:
            return ""
        return "" if found is None else found.value

    def session_header(self, session: str) -> str:
        """The Set-Cookie header of a session; an empty one ends it."""
        age = SESSION_SECONDS if session else 0
        secure = "; Secure" if self.is_secure else ""
        flags = f"Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"
        return f"{self.cookie_name}={session}; {flags}"


def is_loopback(host: str) -> bool:
    """Whether a name can only mean this machine, whatever a name server says."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def inside(url: str) -> str:
    """Where a browser may be sent: a path of ours, or else the first page."""
    is_path = url.startswith("/") and not url.startswith(("//", "/\\"))
    return url if is_path and url.isascii() and url.isprintable() else "/"


def too_often() -> Refusal:
    return Refusal(429, "Too many wrong tokens from this address: wait a minute.")


def _check_origin(request: Asked) -> None:
    """Browsers tell where a form or a script was loaded from; programs say nothing."""
    origin, site = request.header("origin"), request.header("sec-fetch-site")
    if origin and urlsplit(origin).netloc.lower() != request.header("host").lower():
        raise Refusal(
            403,
            f"The request comes from {origin!r} and this is {request.header('host')!r}: a proxy in"
            " front must pass the Host header on.",
            code="wrong_origin",
        )
    if site not in ("", "same-origin", "none"):
        raise Refusal(403, "The request was made by another site.", code="wrong_origin")


def _check_csrf(request: Asked, body: bytes, wanted: str) -> None:
    given = request.header("x-csrf-token")
    if not given and request.header("content-type").startswith("application/x-www-form-urlencoded"):
        given = parse_qs(body.decode("latin-1")).get("csrf_token", [""])[-1]
    if not hmac.compare_digest(given.encode("utf-8", "surrogatepass"), wanted.encode()):
        raise Refusal(
            403,
            "The form is of another session: load its page again. A program sends"
            " `Authorization: Bearer <token>`, any word where no token is set.",
            code="wrong_csrf_token",
        )


def _check_json(body: bytes) -> None:
    """What would have the decoder of a handler fail in other ways than it is foreseen there."""
    try:
        body.decode("utf-8")
        is_good = not tokens.deeper_than(body, _DEEPEST)
    except UnicodeDecodeError:
        is_good = False
    if not is_good:
        raise Refusal(400, "The body is no JSON, not in UTF-8, or nested too deeply.")


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "The request ended early.")
                body += message["body"]
                if len(body) > MOST_BYTES:
                    raise Refusal(413, f"More than {MOST_BYTES} bytes were sent.")
                if not message["more_body"]:
                    return bytes(body)
    except TimeoutError:
        raise Refusal(400, f"The body was not complete in {_PATIENCE_SECONDS:g} s.") from None


def _again(body: bytes, receive: Receive) -> Receive:
    first: list[HTTPReceiveMessage] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> HTTPReceiveMessage | WebSocketReceiveMessage:
        return first.pop() if first else await receive()

    return receive_again


def _with_headers(send: Send, request: Asked) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], *_HEADERS]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            if request.new_session is not None:
                line = request.session_header(request.new_session)
                headers.append((b"set-cookie", line.encode("latin-1")))
            message["headers"] = headers
        await send(message)

    return send_with_headers


async def _answer(request: Asked, refusal: Refusal, send: Send) -> None:
    """Tell the refusal; a person who has to log in is sent to where that is done."""
    status, headers = refusal.status, []
    media_type, content = answers.render(request.path, refusal, answers.access_of(request.scope))
    if status == 401 and request.method == "GET" and not answers.wants_json(request.path):
        if request.header("sec-fetch-site") == "cross-site":
            # Whoever follows a link on another site may have a session, which the browser keeps
            # back (SameSite=Strict) until a page of ours leads there.
            status, content = (
                200,
                templates.render("again.html", None, url=inside(request.url)).encode(),
            )
        else:
            status = 303
            headers.append((b"location", f"/login?next={quote(request.url)}".encode("latin-1")))
    elif status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="relay"'))
    headers += [
        (b"content-type", f"{media_type}; charset=utf-8".encode()),
        (b"content-length", b"%d" % len(content)),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})
