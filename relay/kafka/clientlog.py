"""What librdkafka has to say, as part of our log; by itself it writes to stderr."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Final

_SECONDS: Final = 30.0
_KINDS: Final = 1000


class Seldom(logging.Filter):
    """Lets one line of a kind through in 30 s, with the number of those it held back.

    While a broker refuses connections the client says so twenty times a second. Lines that differ
    in their numbers only are of one kind.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        kind = re.sub(r"\d+", "0", text)
        now = self._clock()
        with self._lock:
            last, held_back = self._kinds.get(kind, (-_SECONDS, 0))
            if now - last < _SECONDS:
                self._kinds[kind] = (last, held_back + 1)
                return False
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            self._kinds[kind] = (now, 0)
        if held_back:
            record.msg, record.args = "%s (and %d more like it)", (text, held_back)
        return True


def client_log() -> logging.Logger:
    """The logger to give to a client."""
    logger = logging.getLogger("relay.kafka.client")
    if not any(isinstance(each, Seldom) for each in logger.filters):
        logger.addFilter(Seldom())
    return logger
