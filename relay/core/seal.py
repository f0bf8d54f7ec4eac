"""The hash chain over the inbox: what a seal is made of, exactly, so that anybody can recompute it.

Every field is written as its length in 4 bytes and then its bytes; all numbers are big-endian and
signed. `F(x)` is such a field, `||` puts one after the other:

    leaf = SHA-256( F("relay.leaf.1") || F(id, 8 bytes) || F(event id, UTF-8)
                    || F(received_at, 8 bytes, microseconds since 1970 in UTC)
                    || F(SHA-256 of the body, 32 bytes) )

    seal = SHA-256( F("relay.seal.1") || F(the previous seal, 32 bytes) || F(number, 8 bytes)
                    || F(day, as 2026-11-26) || F(count of leaves, 8 bytes) || F(leaves, in order) )

The first seal has the number 1, and 32 zero bytes before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from struct import Struct
from typing import Final

HASH_BYTES: Final = 32

GENESIS: Final = bytes(HASH_BYTES)
"""What stands before the first seal."""

_LEAF: Final = b"relay.leaf.1"
# Every row of the inbox passes here: one call packs several fields.
_before_name: Final = Struct(f">I{len(_LEAF)}sIqI").pack
_behind_name: Final = Struct(">IqI").pack

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def leaf(inbox_id: int, event_id: str, received_at: datetime, body_sha256: bytes) -> bytes:
    """The leaf of one row of the inbox, 32 bytes. ``received_at`` has a time zone."""
    name = event_id.encode("utf-8")
    microseconds = (received_at - _EPOCH) // _MICROSECOND
    before = _before_name(len(_LEAF), _LEAF, 8, inbox_id, len(name))
    behind = _behind_name(8, microseconds, len(body_sha256))
    return sha256(b"".join((before, name, behind, body_sha256))).digest()


def seal(previous: bytes, number: int, day: date, leaves: bytes) -> bytes:
    """The hash of a seal, 32 bytes. ``leaves`` are those of its rows, one behind the other."""
    count = len(leaves) // HASH_BYTES
    return _hash(
        b"relay.seal.1",
        previous,
        _number(number),
        day.isoformat().encode("ascii"),
        _number(count),
        leaves,
    )


def split(leaves: bytes) -> list[bytes]:
    """The single leaves of a seal."""
    return [leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES)]


def day_of(received_at: datetime) -> date:
    """The day of a row, in UTC."""
    return received_at.astimezone(UTC).date()


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)


def _hash(*fields: bytes) -> bytes:
    return sha256(b"".join(_fields(fields))).digest()


def _fields(fields: Iterable[bytes]) -> Iterable[bytes]:
    for field in fields:
        yield len(field).to_bytes(4, "big")
        yield field
