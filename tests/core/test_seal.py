"""The hashes of the chain: fixed for ever, and recomputed here without the code that makes them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from hashlib import sha256

import pytest

from relay.core import seal

BODY = sha256(b"{}").digest()
MOMENT = datetime(2026, 11, 26, 23, 59, 59, 999999, tzinfo=UTC)


def by_hand(*fields: bytes) -> str:
    """As docs/audit.md says it."""
    return sha256(b"".join(len(each).to_bytes(4, "big") + each for each in fields)).hexdigest()


LEAVES = {
    (1, "evt_1", MOMENT): "628a0542ba29e54b2f062a77fd9c5dd243017b4cfc8ed244f6bb736a56e998fc",
    (
        2**63 - 1,
        "evt_ü",
        datetime(1969, 12, 31, tzinfo=UTC),
    ): "9dd325dd42f65cb21d589ca20a987a97574f5ca453a4bb3698a4e423a9db7942",
}


@pytest.mark.parametrize(("inbox_id", "event_id", "moment"), LEAVES)
def test_leaves(inbox_id: int, event_id: str, moment: datetime) -> None:
    made = seal.leaf(inbox_id, event_id, moment, BODY).hex()
    assert made == LEAVES[inbox_id, event_id, moment]
    microseconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    assert made == by_hand(
        b"relay.leaf.1",
        inbox_id.to_bytes(8, "big"),
        event_id.encode(),
        microseconds.to_bytes(8, "big", signed=True),
        BODY,
    )


def test_a_chain() -> None:
    day = date(2026, 11, 26)
    leaves = seal.leaf(1, "evt_1", MOMENT, BODY) + seal.leaf(2, "evt_2", MOMENT, BODY)
    first = seal.seal(seal.GENESIS, 1, day, leaves)
    assert first.hex() == "9c13616f9d2039856807ea9fcf2e833044edfc6906d527ed7c3478211769bfe7"
    assert first.hex() == by_hand(
        b"relay.seal.1",
        bytes(32),
        (1).to_bytes(8, "big"),
        b"2026-11-26",
        (2).to_bytes(8, "big"),
        leaves,
    )
    second = seal.seal(first, 2, day, b"")
    assert second.hex() == "49a628926850f9539001ca68bcee3ea795c29e2302e9ad66975747904d2d4bfd"


def test_a_moment_is_the_same_in_every_zone() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=9)))
    assert seal.leaf(1, "e", elsewhere, BODY) == seal.leaf(1, "e", MOMENT, BODY)
    assert seal.day_of(elsewhere) == date(2026, 11, 26)


def test_nothing_can_move_from_one_field_to_the_next() -> None:
    """And every field counts."""
    made = {
        seal.leaf(1, "evt_1", MOMENT, BODY),
        seal.leaf(2, "evt_1", MOMENT, BODY),
        seal.leaf(1, "evt_", MOMENT, BODY),
        seal.leaf(1, "evt_1", MOMENT + timedelta(microseconds=1), BODY),
        seal.leaf(1, "evt_1", MOMENT, sha256(b"").digest()),
        seal.leaf(1, "", MOMENT, b"evt_1" + BODY),
    }
    assert len(made) == 6
    day = date(2026, 11, 26)
    chained = {
        seal.seal(seal.GENESIS, 1, day, bytes(64)),
        seal.seal(bytes(31) + b"\x01", 1, day, bytes(64)),
        seal.seal(seal.GENESIS, 2, day, bytes(64)),
        seal.seal(seal.GENESIS, 1, date(2026, 11, 27), bytes(64)),
        seal.seal(seal.GENESIS, 1, day, bytes(32)),
    }
    assert len(chained) == 5


def test_leaves_are_told_apart() -> None:
    leaves = [bytes([number]) * 32 for number in range(3)]
    assert seal.split(b"".join(leaves)) == leaves
