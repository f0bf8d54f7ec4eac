"""From the bytes of a request to the row that keeps them: pure, so that a thread may do it."""

from __future__ import annotations

from typing import Final

from relay.core.errors import UnusableEvent
from relay.core.event import peek
from relay.core.signature import accept_unsigned, verify
from relay.core.source import SourceConfig
from relay.store.admission import Admitted
from relay.store.inbox import NewEvent, new_event, rejected_event

ORIGIN: Final = "webhook"


def examine(body: bytes, signature: str | None, source: Admitted, now: float) -> NewEvent:
    """The inbox row of a genuine body, dead when it is no event that can be relayed.

    `now` is in Unix seconds. Raises SignatureError.
    """
    secrets = source.signing_secrets or ()
    if not secrets and source.config.insecure:
        verified = accept_unsigned(body)
    else:
        verified = verify(body, signature, secrets, now, source.config.tolerance)
    try:
        event = peek(verified)
    except UnusableEvent as error:
        return dead(body, signature, source.config, error.code, error.message)
    return new_event(
        event,
        body,
        source_id=source.config.source_id,
        origin=ORIGIN,
        signature_header=signature,
    )


def dead(
    body: bytes, signature: str | None, config: SourceConfig, code: str, message: str
) -> NewEvent:
    """The row of a body that is genuine but no event that can be relayed."""
    return rejected_event(
        body, config, origin=ORIGIN, signature_header=signature, code=code, message=message
    )
