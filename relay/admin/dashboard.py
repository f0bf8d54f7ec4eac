"""The role admin: the dashboard and the API behind their gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp

from relay.admin import (
    api,
    backfill_api,
    backfill_pages,
    discards,
    pages,
    record_pages,
    replay_api,
    replay_pages,
    source_api,
    source_pages,
)
from relay.admin.access import Throttle, Tokens
from relay.admin.answers import HANDLERS
from relay.admin.backfills import Backfills
from relay.admin.bulk import Glances, Replayer
from relay.admin.desk import Desk
from relay.admin.gate import MOST_BYTES, Gate
from relay.admin.overview import Watch
from relay.admin.records import Reading
from relay.admin.source_desk import SourceDesk
from relay.kafka import Kafka
from relay.settings import Settings
from relay.store.engine import Database

_SCHEMA: Final = OpenAPIConfig(
    title="relay",
    version="1",
    description="What was received, what became of it, and a hand for what is stuck.",
    path="/schema",
    # JSON alone: the viewers of Litestar load scripts from elsewhere.
    render_plugins=[JsonRenderPlugin(path="/")],
    use_handler_docstrings=False,
    components=Components(security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}),
    security=[{"token": []}],
)


class Dashboard:
    """Pages and API on one database.

    ``kafka`` and ``answers`` are what this process knows of itself where it forwards and receives.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        kafka: Kafka | None = None,
        answers: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        self._desk = Desk(database, hide_bodies=settings.admin_hide_bodies)
        self._tokens = Tokens(settings.admin_token, settings.admin_viewer_token)
        self.replayer = Replayer(database)
        self._glances = Glances(self._desk)
        self._backfills = Backfills(self._desk, settings)
        self._reading = Reading(settings)
        self.watch = Watch(self._desk, kafka, answers)
        self._sources = SourceDesk(self._desk, settings, self.watch)

    def app(self, handlers: Sequence[HTTPRouteHandler]) -> ASGIApp:
        """All of it, and the handlers of health and metrics."""
        throttle = Throttle()
        litestar = Litestar(
            route_handlers=[
                *handlers,
                *pages.free_routes(self._tokens, throttle),
                *pages.routes(self._desk, self.watch, self._reading),
                *api.routes(self._desk, self.watch),
                *record_pages.routes(self._desk, self._reading),
                *discards.routes(self._desk),
                *replay_pages.routes(self._desk, self.replayer, self._glances),
                *replay_api.routes(self._desk, self.replayer, self._glances),
                *backfill_pages.routes(self._desk, self._backfills),
                *backfill_api.routes(self._backfills),
                *source_pages.routes(self._sources),
                *source_api.routes(self._sources),
            ],
            openapi_config=_SCHEMA,
            exception_handlers=HANDLERS,
            logging_config=None,
            request_max_body_size=MOST_BYTES,
        )
        return Gate(litestar, self._tokens, throttle)
