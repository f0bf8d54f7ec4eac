"""`relay` with no rate limit of its own: Stripe's are facts in the code, and here in the way.

python -m benchmarks.unlimited serve --roles snapshotter
"""

from __future__ import annotations

from relay.cli.main import main
from relay.snapshotter import turns

if __name__ == "__main__":
    turns.ACCOUNT_RATE = {"live": 1e6, "test": 1e6}
    turns.ENDPOINT_RATE = 1e6
    main()
