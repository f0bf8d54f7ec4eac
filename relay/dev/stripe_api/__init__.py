"""A Stripe API of our own: its list endpoints over HTTP on loopback, with faults on demand.

Everything about the data is a function of the seed. `python -m relay.dev.stripe_api` runs it as a
process of its own.
"""

from relay.dev.stripe_api.faults import Fault, FaultKind
from relay.dev.stripe_api.limits import Limits, Traffic
from relay.dev.stripe_api.server import FakeStripe

__all__ = ["FakeStripe", "Fault", "FaultKind", "Limits", "Traffic"]
