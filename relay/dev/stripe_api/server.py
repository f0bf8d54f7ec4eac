"""The fake as a server in this process."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay.dev import samples
from relay.dev.stripe_api.app import StripeApp
from relay.dev.stripe_api.control import Control
from relay.dev.stripe_api.dataset import Account, Resource
from relay.dev.stripe_api.faults import Fault, Faults
from relay.dev.stripe_api.kinds import KINDS
from relay.dev.stripe_api.limits import Limits, Traffic
from relay.dev.stripe_api.lists import Lists
from relay.http_server import EmbeddedServer

TEST_KEY: Final = "sk_test_51RelayFakeOfTheStripeApi"
LIVE_KEY: Final = "sk_live_51RelayFakeOfTheStripeApi"
OWN_ACCOUNT: Final = "acct_1PRelayFake000"

_QUARTER_SECONDS: Final = 90 * 86_400


class FakeStripe:
    """Serves while it is entered.

    - `objects`: how many of which resource; a number alone is spread over all resources.
    - `newest`, `span_seconds`: the seconds in which they were created.
    - `keys`: what each key may read (resources; None for all). Others are answered 401.
    - `connected`: further accounts, reached by `Stripe-Account`, with as many objects of their own.
    - `required`: filters that a resource insists on, as payment methods did on `customer`.
    - `clock`: Unix seconds, for the Date header and what is created while it runs.
    - `packs`: whether answers are compressed for those who accept it; it costs some milliseconds.
    """

    def __init__(
        self,
        objects: Mapping[str, int] | int = 1000,
        *,
        seed: int = 0,
        port: int = 0,
        newest: int = samples.EPOCH,
        span_seconds: int = _QUARTER_SECONDS,
        keys: Mapping[str, Collection[str] | None] | None = None,
        connected: Iterable[str] = (),
        limits: Limits = Limits(),  # noqa: B008 - frozen
        faults: Iterable[Fault] = (),
        required: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.time,
        packs: bool = False,
    ) -> None:
        self.key = TEST_KEY
        """A key of test mode that may read everything, unless `keys` says otherwise."""
        self._counts = objects if isinstance(objects, Mapping) else _spread(objects)
        unknown = self._counts.keys() - KINDS.keys()
        if unknown:
            raise ValueError(f"not a resource that Stripe lists: {', '.join(sorted(unknown))}")
        self._seed = seed
        self._newest = newest
        self._span_seconds = span_seconds
        self._known_accounts = {OWN_ACCOUNT, *connected}
        self._accounts: dict[tuple[str, bool], Account] = {}
        self.traffic = Traffic(limits)
        self.faults = Faults(faults, f"faults/{seed}")
        self._clock = clock
        self._port = port
        own = self._account_of(OWN_ACCOUNT, False)
        assert own is not None
        lists = Lists(
            account_of=self._account_of,
            own_account=OWN_ACCOUNT,
            keys=keys if keys is not None else {TEST_KEY: None, LIVE_KEY: None},
            traffic=self.traffic,
            faults=self.faults,
            clock=clock,
            required=required or {},
        )
        control = Control(own, self.traffic, self.faults, clock)
        self._app = StripeApp(lists, control, self.traffic, clock=clock, packs=packs)
        self._server: EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self.url = ""
        """Where it listens, once it is entered: what RELAY_STRIPE_API_BASE has to be."""

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
        )
        self._server = EmbeddedServer(config)
        self._serving = await self._server.start([listener])
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        self._server.force_exit = True
        await self._serving

    def resource(self, name: str, account: str = OWN_ACCOUNT, *, live: bool = False) -> Resource:
        """The objects of one resource, to look at, create, change and delete."""
        found = self._account_of(account, live)
        if found is None:
            raise KeyError(account)
        return found.resources[name]

    def create(self, name: str, count: int = 1, *, created: int | None = None) -> list[str]:
        """Objects of the own account, all in one second: `created`, or now. Returns their ids."""
        second = int(self._clock()) if created is None else created
        resource = self.resource(name)
        return [resource.create(second).id for _ in range(count)]

    def _account_of(self, account: str, live: bool) -> Account | None:
        if account not in self._known_accounts:
            return None
        found = self._accounts.get((account, live))
        if found is None:
            found = self._accounts[account, live] = Account(
                self._counts,
                seed=f"{self._seed}/{account}/{live}",
                live=live,
                newest=self._newest,
                span_seconds=self._span_seconds,
            )
        return found


class _Protocol(HttpToolsProtocol):
    """Lets the application end the connection, which ASGI has no word for."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)["extensions"] = {"transport": self.transport}


def _spread(total: int) -> dict[str, int]:
    share, rest = divmod(total, len(KINDS))
    return {name: share + (place < rest) for place, name in enumerate(KINDS)}
