"""From the bytes of a request to the row that keeps them: pure, so that a thread may do it."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from relay.core.errors import UnusableEvent
from relay.core.event import peek
from relay.core.routing import key_of, lane_of
from relay.core.signature import accept_unsigned, verify
from relay.core.source import SourceConfig
from relay.store.admission import Admitted
from relay.store.inbox import NewEvent, new_event

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
    """A row that claims nothing about what the body says.

    Its id is made of the bytes, so that it can never stand in the way of a genuine event.
    """
    digest = sha256(body)
    event_id = f"rejected:{digest.hexdigest()}"
    lane, key_hash = lane_of(key_of(event_id))
    return NewEvent(
        source_id=config.source_id,
        event_id=event_id,
        event_type=None,
        object_type=None,
        object_id=None,
        account=None,
        livemode=None,
        api_version=None,
        event_created=None,
        origin=ORIGIN,
        signature_header=signature,
        body=body,
        body_sha256=digest.digest(),
        lane=lane,
        key_hash=key_hash,
        dead_code=code,
        dead_error=message,
        dead_copy=config.dlq and bool(config.dlq_topic),
    )
