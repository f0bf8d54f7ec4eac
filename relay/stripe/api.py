"""A connection pool to the Stripe API, under one key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import msgspec

from relay.core.errors import ConfigError
from relay.core.listings import API_VERSION
from relay.core.stripe_key import KeyMode, key_mode
from relay.display import printable, redact
from relay.settings.model import Address
from relay.stripe.answer import Answer, Delayed, Page, read_answer

_KEEP_ALIVE_SECONDS: Final = 30.0


class StripeApi:
    """Asks one question at a time of `base_url`, never twice by itself.

    `account` acts for a connected account (Connect). Raises ConfigError for what is not a secret
    or restricted key, and for a live key that would travel unencrypted.
    """

    mode: KeyMode
    """Of the key: it says whether what is listed is live where the objects themselves do not."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        account: str | None = None,
        connections: int = 10,
        connect_timeout_seconds: float = 10.0,
        timeout_seconds: float = 80.0,
    ) -> None:
        self.mode = key_mode(key)
        self.account = account
        self._base_url = _checked(base_url, self.mode)
        self._key = key
        self._timeout_seconds = timeout_seconds
        headers = {
            "Authorization": f"Bearer {key}",
            "User-Agent": f"relay/{version('relay')}",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        if account is not None:
            headers["Stripe-Account"] = account
        self._client = httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=connect_timeout_seconds),
            limits=httpx.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=_KEEP_ALIVE_SECONDS,
            ),
        )

    def __repr__(self) -> str:
        """Without the key."""
        return f"StripeApi({self._base_url!r}, mode={self.mode!r}, account={self.account!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def list_page(
        self,
        path: str,
        parameters: Sequence[tuple[str, str]] = (),
        *,
        created_field: str = "created",
        api_version: str = API_VERSION,
    ) -> Answer:
        """One request for one page of a list; `created_field` is that of the listing.

        Raises nothing for what Stripe or the network may do.
        """
        started = perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._client.get(
                    path,
                    params=httpx.QueryParams(list(parameters)),
                    headers={"Stripe-Version": api_version},
                )
        except (TimeoutError, httpx.TimeoutException):
            return Delayed("timeout", f"no answer from {self._base_url} in time")
        except httpx.RequestError as error:
            reason = str(error) or type(error).__name__
            return Delayed("unreachable", self._safe(f"{self._base_url}: {reason}"))
        except RuntimeError:
            if not self._client.is_closed:
                raise
            return Delayed("unreachable", "this key is not used any more: its source was changed")
        answer = read_answer(
            response.status_code,
            response.headers,
            response.content,
            url=str(response.url),
            seconds=perf_counter() - started,
            created_field=created_field,
        )
        if isinstance(answer, Page):
            return answer
        return msgspec.structs.replace(answer, message=self._safe(answer.message))

    def _safe(self, text: str) -> str:
        return printable(redact(text, (self._key,)))


def _checked(base_url: str, mode: KeyMode) -> str:
    setting = "RELAY_STRIPE_API_BASE"
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{setting} must be a URL such as https://api.stripe.com", setting=setting
        )
    if mode == "live" and parts.scheme == "http" and not Address(parts.hostname, 0).is_loopback:
        raise ConfigError(
            f"{setting}: a live key is never sent unencrypted; use https://", setting=setting
        )
    return base_url.rstrip("/")
