"""What an operator can do with one event, by the same functions as at the command line."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from relay.admin.answers import Refusal
from relay.store import deadletters, events, replays
from relay.store.events import Filter, Operator

Action = Literal["retry", "skip", "replay", "discard"]
ACTIONS: Final = get_args(Action)

_WAITING: Final = ("pending", "retrying")
_FITTING: Final[dict[Action, tuple[str, ...]]] = {
    "retry": _WAITING,
    "skip": _WAITING,
    "replay": (*replays.SETTLED, "dead"),
    "discard": ("dead",),
}


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What was done with an event.

    ``overtaken``: a newer event of its object was delivered, so that consumers see the older state
    once more.
    """

    inbox_id: int
    action: Action
    replay_id: str | None = None
    overtaken: bool = False


def possible(state: str, *, is_usable: bool = True) -> list[Action]:
    """What can be done with an event in this state; one that is no usable event is never sent."""
    return [
        action
        for action, states in _FITTING.items()
        if state in states and (is_usable or action != "replay")
    ]


async def act(
    connection: AsyncConnection, inbox_id: int, action: Action, operator: Operator
) -> Done:
    """Do it, in the caller's transaction, and write it down.

    Raises Refusal when there is no such event, or it is in another state, before or meanwhile.
    """
    found = await events.list_events(connection, Filter(inbox_id=inbox_id), limit=1)
    if not found:
        raise Refusal(404, f"There is no event {inbox_id}.")
    (event,) = found
    if event["state"] not in _FITTING[action]:
        can = " and ".join(possible(event["state"]))
        raise Refusal(409, f"Event {inbox_id} is {event['state']}: what can be done is {can}.")
    match action:
        case "retry":
            changed = await events.retry(connection, [inbox_id], operator)
            done = Done(inbox_id=inbox_id, action=action)
        case "skip":
            changed = await events.skip(connection, [inbox_id], operator)
            done = Done(inbox_id=inbox_id, action=action)
        case "discard":
            letters = await _letters(connection, inbox_id)
            changed = await deadletters.discard(connection, letters, operator)
            done = Done(inbox_id=inbox_id, action=action)
        case "replay":
            return await _replay(connection, event, operator)
    if not changed:
        raise _changed_meanwhile(inbox_id)
    return done


async def _replay(connection: AsyncConnection, event: dict[str, Any], operator: Operator) -> Done:
    inbox_id = event["id"]
    if event["state"] == "dead":
        letters = await _letters(connection, inbox_id)
        again = await deadletters.replay(connection, letters, operator)
        for why in again.refused.values():
            raise Refusal(409, f"Event {inbox_id} cannot be sent: {why}.")
        queued, replay_id, overtaken = again.queued, again.replay_id, again.overtaken
    else:
        place = (inbox_id, event["received_at"])
        done = await replays.replay(connection, [place], operator)
        if done.redacted:
            raise Refusal(409, f"Event {inbox_id} was redacted: there is nothing left to send.")
        queued, replay_id, overtaken = done.queued, done.replay_id, done.overtaken
    if not queued:
        raise _changed_meanwhile(inbox_id)
    return Done(inbox_id=inbox_id, action="replay", replay_id=replay_id, overtaken=bool(overtaken))


async def _letters(connection: AsyncConnection, inbox_id: int) -> list[int]:
    return await deadletters.find_ids(connection, Filter(inbox_id=inbox_id))


def _changed_meanwhile(inbox_id: int) -> Refusal:
    return Refusal(
        409,
        f"Event {inbox_id} cannot be changed now: it is in hand at this moment, its state has"
        " changed, or its source was deleted. Look again.",
        code="busy",
    )
