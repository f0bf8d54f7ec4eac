"""What the rig wants of the consumer of the guide."""

from __future__ import annotations

from tests.faults import consumer
from tests.faults.evidence import Proof

KEY = '{"id":"cus_1"}'


def proof(inbox_id: int, *, topic: str = "customer", kind: str = "event") -> Proof:
    return Proof(
        inbox_id=inbox_id,
        event_id=f"evt_{inbox_id}",
        place=(topic, 0, inbox_id),
        key=KEY.encode(),
        produced_at=0.0,
        kind=kind,
    )


def judged(state: int | None, *proofs: Proof) -> list[str]:
    states = {} if state is None else {("customer", KEY): state}
    return consumer.judge(states, proofs, {"customer"})


def test_the_newest_event_counts() -> None:
    assert judged(3, proof(3), proof(2)) == []
    assert "as of event 2, not 3" in judged(2, proof(3), proof(2))[0]
    assert "as of event None, not 3" in judged(None, proof(3))[0]


def test_copies_of_dead_letters_and_other_topics_do_not() -> None:
    assert judged(2, proof(2), proof(3, kind="dead_letter"), proof(4, topic="gone")) == []
