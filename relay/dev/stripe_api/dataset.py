"""The objects of one account in one mode: sorted, filtered, created and deleted."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from relay.dev import samples
from relay.dev.stripe_api.kinds import KINDS, Kind
from relay.dev.stripe_api.render import Template, id_of

_LETTERS: Final = len(samples.PLACEHOLDER)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One object, without its JSON."""

    order: tuple[int, int]
    """Its second and a number that grows: objects of one second have an order too."""
    id: str
    letters: str
    customer: str
    state: int

    @property
    def created(self) -> int:
        return self.order[0]


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for, checked. The window of `created` is half open."""

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created_from: int = 0
    created_before: int = 2**62
    filters: Mapping[str, object] = {}
    expand: frozenset[str] = frozenset()


class Part(msgspec.Struct, frozen=True):
    """A piece of a list, newest first."""

    rows: Sequence[Row]
    has_more: bool


class CursorGoneError(Exception):
    """The object that a cursor names is not (or no longer) in the list."""

    def __init__(self, param: str, object_id: str) -> None:
        super().__init__(object_id)
        self.param = param
        self.object_id = object_id


_order: Final = attrgetter("order")


class Resource:
    """All objects of one kind, oldest first."""

    def __init__(self, kind: Kind, seed: str, live: bool, customers: Sequence[str]) -> None:
        self.kind = kind
        self.deleted: list[str] = []
        """Ids, in the order in which they were deleted."""
        self._seed = f"{seed}/{kind.listing.resource}"
        self._random = random.Random(self._seed)  # noqa: S311 - to be repeatable, not secret
        self._live = live
        self._customers = customers
        self._rows: list[Row] = []
        self._by_id: dict[str, Row] = {}
        self._by_customer: dict[str, list[Row]] = {}
        self._templates: dict[tuple[int, frozenset[str]], Template] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> list[str]:
        """Newest first."""
        return [row.id for row in reversed(self._rows)]

    def rows(self) -> list[Row]:
        """Newest first."""
        return self._rows[::-1]

    def fill(self, count: int, newest: int, span_seconds: int) -> None:
        """`count` objects in the seconds up to `newest`, some of them in the same one."""
        draw = self._random.random
        for created in sorted(newest - int(draw() * span_seconds) for _ in range(count)):
            self.create(created)

    def create(self, created: int) -> Row:
        """The newest object of that second."""
        number, self._made = self._made, self._made + 1
        letters = samples.id_letters(f"{self._seed}/{number}", _LETTERS)
        customers = self._customers
        row = Row(
            (created, number),
            id_of(self.kind.listing.object_type, letters),
            letters,
            customers[number % len(customers)] if customers else f"cus_P{letters}00",
            number % len(self.kind.states),
        )
        insort(self._rows, row, key=_order)
        insort(self._by_customer.setdefault(row.customer, []), row, key=_order)
        self._by_id[row.id] = row
        return row

    def delete(self, object_id: str) -> None:
        """Raises KeyError for an id that is not there."""
        row = self._by_id.pop(object_id)
        for rows in (self._rows, self._by_customer[row.customer]):
            del rows[bisect_left(rows, row.order, key=_order)]
        self.deleted.append(object_id)

    def delete_random(self) -> str | None:
        """One object fewer, if there is one."""
        if not self._rows:
            return None
        object_id = self._rows[int(self._random.random() * len(self._rows))].id
        self.delete(object_id)
        return object_id

    def change_state(self, object_id: str, state: int) -> None:
        """Into another of the kind's states; its place in the list stays."""
        row = msgspec.structs.replace(self._by_id[object_id], state=state)
        for rows in (self._rows, self._by_customer[row.customer]):
            rows[bisect_left(rows, row.order, key=_order)] = row
        self._by_id[object_id] = row

    def select(self, query: Query) -> Part:
        """Raises CursorGoneError."""
        rows = self._rows
        filters = dict(query.filters)
        if "customer" in filters:
            rows = self._by_customer.get(str(filters.pop("customer")), [])
        keeps = self._keeps(filters)
        low = bisect_left(rows, (query.created_from, -1), key=_order)
        high = bisect_left(rows, (query.created_before, -1), key=_order)
        if query.ending_before is not None:
            cursor = self._cursor("ending_before", query.ending_before, query, keeps)
            low = max(low, bisect_right(rows, cursor.order, key=_order))
            found, has_more = _take(rows, range(low, high), query.limit, keeps)
            return Part(found[::-1], has_more)
        if query.starting_after is not None:
            cursor = self._cursor("starting_after", query.starting_after, query, keeps)
            high = min(high, bisect_left(rows, cursor.order, key=_order))
        return Part(*_take(rows, range(high - 1, low - 1, -1), query.limit, keeps))

    def render(self, row: Row, expand: frozenset[str] = frozenset()) -> bytes:
        """Its JSON as it stands in a list."""
        template = self._templates.get((row.state, expand))
        if template is None:
            template = self._templates[row.state, expand] = self._template(row.state, expand)
        return template.render(row.id, row.customer, row.letters, row.created)

    def _template(self, state: int, expand: frozenset[str]) -> Template:
        listing = self.kind.listing
        shut = {
            field.removeprefix("data.") for _, field in listing.expansions if field not in expand
        }
        members = self.kind.states[state]
        return Template(listing.object_type, members, without=shut, live=self._live)

    def _cursor(
        self, param: str, object_id: str, query: Query, keeps: Callable[[Row], bool]
    ) -> Row:
        row = self._by_id.get(object_id)
        customer = query.filters.get("customer")
        if row is None or not keeps(row) or customer not in (None, row.customer):
            raise CursorGoneError(param, object_id)
        return row

    def _keeps(self, filters: Mapping[str, object]) -> Callable[[Row], bool]:
        """Whether a row passes the filters, and the defaults of those that were not given."""
        kind = self.kind
        shown = [_is_shown(state, kind, filters) for state in kind.states]
        return lambda row: shown[row.state]


def _is_shown(state: Mapping[str, Any], kind: Kind, filters: Mapping[str, object]) -> bool:
    asked = {name: value for name, value in filters.items() if value != kind.shows_all}
    if any(state.get(name) != value for name, value in asked.items()):
        return False
    hidden = {name: values for name, values in kind.hidden.items() if name not in filters}
    return not any(state.get(name) in values for name, values in hidden.items())


def _take(
    rows: Sequence[Row], places: Iterable[int], limit: int, keeps: Callable[[Row], bool]
) -> tuple[list[Row], bool]:
    found: list[Row] = []
    for place in places:
        if keeps(rows[place]):
            if len(found) == limit:
                return found, True
            found.append(rows[place])
    return found, False


class Account:
    """Every resource of one account in one mode."""

    def __init__(
        self, counts: Mapping[str, int], *, seed: str, live: bool, newest: int, span_seconds: int
    ) -> None:
        customers: list[str] = []
        self.resources: dict[str, Resource] = {}
        for name, kind in KINDS.items():
            resource = Resource(kind, seed, live, customers)
            resource.fill(counts.get(name, 0), newest, span_seconds)
            self.resources[name] = resource
            if name == "customer":
                customers = resource.ids()
