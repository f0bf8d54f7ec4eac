"""Sample events of every type that Stripe is known to send: for the demo, `relay dev` and tests.

`event_types.tsv` lists the types with the object each of them carries; `objects.jsonl` holds one
hand-made object per kind, with what real ones have and tests forget: nested lists, text in many
scripts, decimals in strings, integers beyond 2**53, nulls. All ids and amounts are invented.

Everything is a function of its arguments: the same seed gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final

import msgspec

from relay.core.listings import API_VERSION

EPOCH: Final = 1_780_000_000
"""The second at which every object of `objects.jsonl` was created."""

PLACEHOLDER: Final = "RelaySample"
"""What stands in its ids for the letters that tell objects apart."""

_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_STATUSES: Final = frozenset(
    [
        "active",
        "canceled",
        "closed",
        "completed",
        "expired",
        "failed",
        "paid",
        "paused",
        "posted",
        "processing",
        "requires_action",
        "requires_input",
        "returned",
        "succeeded",
        "verified",
    ]
)
_PREVIOUS: Final[dict[str, dict[str, Any]]] = {
    "charge.refunded": {"amount_refunded": 0, "receipt_url": None, "refunds": {"data": []}},
    "customer.subscription.updated": {
        "items": {"data": [{"id": "si_PRelaySample00", "quantity": 3}]},
        "metadata": {"team": None},
    },
    "customer.updated": {"email": "alt@example.pl", "metadata": {"tier": "srebrny"}},
    "invoice.paid": {"amount_paid": 0, "amount_remaining": 2389, "status": "open"},
    "payment_intent.amount_capturable_updated": {"amount_capturable": 9007199254740993},
    "price.updated": {"tiers": [{"unit_amount_decimal": "1.10", "up_to": None}]},
    "product.updated": {},
}


class EventType(msgspec.Struct, frozen=True):
    """A type of event and what its `data.object` is."""

    name: str
    object_type: str
    has_id: bool


class Sample(msgspec.Struct, frozen=True):
    """One event, and the bytes that Stripe would post: indented JSON."""

    event_id: str
    event_type: str
    object_type: str
    object_id: str | None
    event: dict[str, Any]

    @property
    def body(self) -> bytes:
        return to_body(self.event)


@cache
def event_types() -> tuple[EventType, ...]:
    """All 275 snapshot event types known today, by name."""
    table = files("relay.dev").joinpath("event_types.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines()[1:])
    return tuple(
        EventType(name, object_type, has_id == "yes") for name, object_type, has_id in rows
    )


def sample(
    event_type: str,
    *,
    seed: int = 0,
    event_id: str | None = None,
    object_id: str | None = None,
    account: str | None = None,
    livemode: bool = False,
) -> Sample:
    """One event of any type; of a type that is not in the list, with a small made-up object.

    `object_id` replaces the object's id, also where its own lists refer to it, and is ignored
    where the object has none.
    """
    known = _by_name().get(event_type) or EventType(event_type, event_type.partition(".")[0], True)
    letters = id_letters(f"{seed}/{event_type}", len(PLACEHOLDER))
    created = EPOCH + seed
    text = _objects().get(known.object_type) or _unknown_object(known.object_type)
    if known.has_id and object_id is not None:
        text = text.replace(json.loads(text)["id"], json.dumps(object_id)[1:-1])
    text = text.replace(PLACEHOLDER, letters).replace(str(EPOCH), str(created))
    target = json.loads(text)
    if not known.has_id:
        target.pop("id", None)
    if "livemode" in target:
        target["livemode"] = livemode
    last = event_type.rpartition(".")[2]
    data: dict[str, Any] = {"object": target}
    previous = _PREVIOUS.get(event_type)
    if "status" in target and last in _STATUSES:
        previous = previous or {"status": target["status"]}
        target["status"] = last
    elif last == "updated" and previous is None:
        previous = {"metadata": {"order_id": None}} if "metadata" in target else {}
    if previous is not None:
        data["previous_attributes"] = previous
    event: dict[str, Any] = {
        "id": event_id or "evt_1P" + id_letters(f"event/{seed}/{event_type}", 18),
        "object": "event",
        **({} if account is None else {"account": account}),
        "api_version": API_VERSION,
        "created": created,
        "data": data,
        "livemode": livemode,
        "pending_webhooks": 1 + seed % 3,
        "request": {
            "id": "req_" + letters + "req",
            "idempotency_key": None if seed % 2 else letters,
        },
        "type": event_type,
    }
    return Sample(event["id"], event_type, known.object_type, target.get("id"), event)


def events(
    count: int | None = None,
    *,
    seed: int = 0,
    types: Sequence[str] | None = None,
    object_ids: Sequence[str] | None = None,
    account: str | None = None,
    livemode: bool = False,
) -> Iterator[Sample]:
    """`count` events with ids of their own, going round the types (default: once round all).

    With `object_ids` they go round these too: few of them make hot keys.
    """
    names = types if types is not None else [event_type.name for event_type in event_types()]
    for number in range(len(names) if count is None else count):
        # Every round of the types takes the next object, so that each meets every type.
        turn = number + number // len(names)
        yield sample(
            names[number % len(names)],
            seed=seed + number,
            object_id=object_ids[turn % len(object_ids)] if object_ids else None,
            account=account,
            livemode=livemode,
        )


def thin_body(seed: int = 0) -> bytes:
    """A thin payload (`v2.core.event`), which relay refuses: it has no `data.object`."""
    letters = id_letters(f"thin/{seed}", 18)
    return to_body(
        {
            "id": "evt_test_65" + letters,
            "object": "v2.core.event",
            "type": "v1.customer.created",
            "livemode": False,
            "created": "2026-05-28T20:26:40.000Z",
            "related_object": {
                "id": "cus_" + letters[:14],
                "type": "customer",
                "url": "/v1/customers/cus_" + letters[:14],
            },
        }
    )


def object_text(object_type: str) -> str:
    """The sample of a kind of object as compact JSON, as it stands in `objects.jsonl`."""
    return _objects()[object_type]


def id_letters(seed: str, count: int) -> str:
    """Letters and digits as in Stripe's ids, from a hash: `random` promises no lasting sequence."""
    number = int.from_bytes(blake2b(seed.encode("utf-8")).digest(), "big")
    letters = []
    for _ in range(count):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)


def to_body(event: dict[str, Any]) -> bytes:
    """As Stripe writes it: indented by two, text in UTF-8."""
    return json.dumps(event, indent=2, ensure_ascii=False).encode("utf-8")


@cache
def _by_name() -> dict[str, EventType]:
    return {event_type.name: event_type for event_type in event_types()}


@cache
def _objects() -> dict[str, str]:
    lines = files("relay.dev").joinpath("objects.jsonl").read_text("utf-8").splitlines()
    return {json.loads(line)["object"]: line for line in lines}


def _unknown_object(object_type: str) -> str:
    about = {"id": f"{object_type[:3]}_{PLACEHOLDER}00", "object": object_type, "created": EPOCH}
    return json.dumps(about)
