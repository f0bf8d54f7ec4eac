"""Reading a list to its end: no object that was there throughout is missed, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import scan
from relay.core.scan import Position, Seen

Objects = dict[str, int]
"""Creation times by id."""


class List:
    """Stripe's list endpoint, the newest first: ties in the order in which they were created."""

    def __init__(self, objects: Objects, page: int) -> None:
        self._objects = dict(objects)
        self._page = page
        self.requests = 0

    def delete(self, object_id: str) -> None:
        self._objects.pop(object_id, None)

    def create(self, object_id: str, created: int) -> None:
        self._objects[object_id] = created

    @property
    def ids(self) -> list[str]:
        return list(self._objects)

    def ask(self, query: dict[str, str]) -> tuple[list[str], bool] | None:
        """Ids and `has_more`; None when the cursor is not in the list."""
        self.requests += 1
        lower = int(query.get("created[gte]", -(10**12)))
        upper = int(query.get("created[lt]", 10**12))
        newest_first = sorted(
            ((created, place, each) for place, (each, created) in enumerate(self._objects.items())),
            reverse=True,
        )
        listed = [each for created, _, each in newest_first if lower <= created < upper]
        after = query.get("starting_after")
        if after is not None:
            if after not in listed:
                return None
            listed = listed[listed.index(after) + 1 :]
        return listed[: self._page], len(listed) > self._page

    def created(self, object_id: str) -> int:
        return self._objects[object_id]


def read(server: List, start: Position, moves: Sequence[int], *, filtered: bool) -> list[str]:
    """Everything that is read from `start`; `moves` says what happens beside each page.

    0: nothing; 1: split; 2: the cursor's object is deleted; 3: another object is deleted; 4: one
    is created now; 5: the process is killed before the page is stored.
    """
    open_positions = [start]
    seen: list[str] = []
    at_once = iter(moves)
    while open_positions:
        position = open_positions.pop()
        while True:
            move = next(at_once, 0)
            answer = server.ask(scan.parameters(position, filtered=filtered))
            if answer is None:
                position = scan.recover(position, filtered=filtered)
                continue
            ids, has_more = answer
            if move == 5:
                continue
            seen += ids
            last = ids[-1] if ids else None
            page = Seen(
                last_id=last,
                last_created=server.created(last) if last else None,
                has_more=has_more,
            )
            position, progress = scan.advance(position, page)
            if progress == "done":
                break
            if move == 1 and filtered and (halves := scan.split(position)):
                position, older = halves
                open_positions.append(older)
            if move == 2 and last is not None:
                server.delete(last)
            if move == 3 and server.ids:
                server.delete(server.ids[len(server.ids) // 2])
            if move == 4:
                server.create(f"new_{server.requests}", _NOW + server.requests)
    return seen


_NOW = 1_790_000_000

# Few distinct moments, so that many objects share a second, and some before Stripe began.
_times = st.sampled_from([_NOW - 1, _NOW - 2, _NOW - 7200, _NOW - 7201, _NOW - 10**6, 0]) | (
    st.integers(scan.STRIPE_BEGAN, _NOW - 1)
)
_objects = st.lists(_times, max_size=60).map(
    lambda times: {f"obj_{number}": created for number, created in enumerate(times)}
)
_moves = st.lists(st.integers(0, 5), max_size=60)


@settings(max_examples=400, deadline=None)
@given(objects=_objects, moves=_moves, page=st.integers(1, 7), filtered=st.booleans())
def test_nothing_that_was_there_throughout_is_missed(
    objects: Objects, moves: list[int], page: int, filtered: bool
) -> None:
    server = List(objects, page)
    start = Position(created_until=_NOW) if filtered else Position()
    seen = read(server, start, moves, filtered=filtered)
    assert set(objects) & set(server.ids) <= set(seen)


@settings(max_examples=200, deadline=None)
@given(objects=_objects, page=st.integers(1, 7), splits=st.lists(st.integers(0, 1), max_size=40))
def test_undisturbed_readers_share_the_objects(
    objects: Objects, page: int, splits: list[int]
) -> None:
    server = List(objects, page)
    seen = read(server, Position(created_until=_NOW), splits, filtered=True)
    assert sorted(seen) == sorted(objects)


@settings(max_examples=200, deadline=None)
@given(
    created_from=st.none() | st.integers(0, _NOW),
    created_until=st.integers(0, _NOW),
    last_created=st.none() | st.integers(0, _NOW),
)
def test_halves_are_the_whole(
    created_from: int | None, created_until: int, last_created: int | None
) -> None:
    at = Position(
        created_from=created_from,
        created_until=created_until,
        cursor=None if last_created is None else "obj_1",
        last_created=last_created,
    )
    halves = scan.split(at)
    if halves is None:
        return
    newer, older = halves
    assert newer.created_until == created_until
    assert newer.created_from == older.created_until
    assert older.created_from == created_from
    assert newer.cursor == at.cursor
    assert older.cursor is None
    # The object of the cursor stays in the filter of the one that keeps it.
    assert last_created is None or newer.created_from is None or newer.created_from <= last_created


def test_an_empty_page_that_promises_more_is_not_the_end() -> None:
    at = Position(created_until=_NOW, cursor="obj_1", last_created=_NOW - 5)
    assert scan.advance(at, Seen(last_id=None, last_created=None, has_more=True)) == (at, "stalled")


def test_an_empty_last_page_is_the_end() -> None:
    at = Position(created_until=_NOW, cursor="obj_1", last_created=_NOW - 5)
    assert scan.advance(at, Seen(last_id=None, last_created=None, has_more=False)) == (at, "done")


def test_a_lost_cursor_begins_again_within_its_second() -> None:
    at = Position(created_from=7, created_until=_NOW, cursor="obj_1", last_created=_NOW - 5)
    found = scan.recover(at, filtered=True)
    assert scan.parameters(found, filtered=True) == {
        "limit": "100",
        "created[gte]": "7",
        "created[lt]": str(_NOW - 4),
    }


def test_a_list_without_the_filter_begins_anew() -> None:
    found = scan.recover(Position(cursor="obj_1", last_created=_NOW), filtered=False)
    assert scan.parameters(found, filtered=False) == {"limit": "100"}


@pytest.mark.parametrize("hours", [0, 1])
def test_a_short_window_has_one_reader(hours: int) -> None:
    at = Position(created_from=_NOW - 3600 * hours, created_until=_NOW)
    assert scan.split(at) is None
