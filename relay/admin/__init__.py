"""The admin port: health today; the API and the dashboard come here."""

from relay.admin.server import AdminServer

__all__ = ["AdminServer"]
