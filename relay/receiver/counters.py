"""What the receiver has done so far, for whoever shows it."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Plain numbers since the start of the process; nothing in them comes from a client."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        """Answers by status and word, e.g. `(200, "stored")`, `(400, "signature_wrong")`."""
        self.body_bytes = 0
        """Bytes of the bodies that were read to the end."""
        self.connections = 0
        """Open connections now."""
        self.batches = 0
        """Transactions of the group commit that committed."""
        self.rows = 0
        """Rows in them, duplicates included."""
        self.commit_seconds = 0.0
        """Time those transactions took, together."""
        self.batches_retried = 0
        """Repeats after a deadlock, a serialisation failure or a change of the schema."""
        self.batches_failed = 0
        """Batches answered with 503."""
        self.refused_samples = 0
        """Refused requests that were kept for people to look at."""
        self.refused_dropped = 0
        """Those that were not, because enough were kept already."""
        self.crashes = 0
        """Requests that ran into a bug of ours."""
