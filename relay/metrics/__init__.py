"""`/metrics` in Prometheus' text format; `docs/metrics.md` tells what each figure means."""

from relay.metrics.page import Metrics

__all__ = ["Metrics"]
