"""The admin port: health and metrics, and with the role admin the API and the dashboard."""

from relay.admin.dashboard import Dashboard
from relay.admin.overview import SAMPLE_SECONDS
from relay.admin.server import AdminServer

__all__ = ["SAMPLE_SECONDS", "AdminServer", "Dashboard"]
