"""Reading the parameters of a list request, and Stripe's answers to wrong ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl

from relay.core.listings import MAX_PAGE
from relay.dev.stripe_api.dataset import Query
from relay.dev.stripe_api.failure import ApiError
from relay.dev.stripe_api.kinds import Kind

_expand: Final = re.compile(r"expand\[\d*\]").fullmatch
_range: Final = re.compile(r"created\[(gt|gte|lt|lte)\]").fullmatch
_BOOLEANS: Final = {"true": True, "false": False}


def parse(query_string: bytes, kind: Kind, required: Mapping[str, str]) -> Query:
    """The query of a list; `required` are filters that resources insist on. Raises ApiError."""
    given = parse_qsl(query_string.decode("ascii", "replace"), keep_blank_values=True)
    expand = frozenset(value for name, value in given if _expand(name))
    plain = {name: value for name, value in given if not _expand(name)}
    listing = kind.listing
    known = {"limit", "starting_after", "ending_before", *kind.filters}
    unknown = [name for name in plain if name not in known and not _is_time(name, kind)]
    if unknown:
        raise _unknown(unknown)
    missing = required.get(listing.resource)
    if missing is not None and missing not in plain:
        raise ApiError(400, f"Missing required param: {missing}.", "parameter_missing", missing)
    if "starting_after" in plain and "ending_before" in plain:
        raise ApiError(400, "You cannot parameterize both starting_after and ending_before.")
    for name in expand:
        if name not in [field for _, field in listing.expansions]:
            raise ApiError(400, f"This property cannot be expanded ({name}).", None, "expand")
    earliest, latest = _window(plain)
    return Query(
        limit=_limit(plain.get("limit", "10")),
        starting_after=plain.get("starting_after"),
        ending_before=plain.get("ending_before"),
        created_from=earliest,
        created_before=latest,
        filters={name: _value(name, plain[name]) for name in kind.filters if name in plain},
        expand=expand,
    )


def _is_time(name: str, kind: Kind) -> bool:
    return kind.listing.has_created_filter and (name == "created" or _range(name) is not None)


def _unknown(names: Sequence[str]) -> ApiError:
    # Stripe names a parameter with members by its own name.
    tops = list(dict.fromkeys(name.partition("[")[0] for name in names))
    many = "s" if len(tops) > 1 else ""
    text = f"Received unknown parameter{many}: {', '.join(tops)}"
    return ApiError(400, text, "parameter_unknown", tops[0])


def _limit(text: str) -> int:
    limit = _integer("limit", text)
    if limit > MAX_PAGE:
        wrong = f"less than or equal to {MAX_PAGE}"
    elif limit < 1:
        wrong = "greater than or equal to 1"
    else:
        return limit
    message = f"This value must be {wrong} (it currently is '{limit}')."
    raise ApiError(400, message, "parameter_invalid_integer", "limit")


def _window(plain: Mapping[str, str]) -> tuple[int, int]:
    """Half open, of whole seconds."""
    if "created" in plain:
        second = _integer("created", plain["created"])
        return second, second + 1
    earliest, latest = 0, 2**62
    for name, text in plain.items():
        found = _range(name)
        if found is None:
            continue
        second = _integer("created", text)
        match found[1]:
            case "gt":
                earliest = max(earliest, second + 1)
            case "gte":
                earliest = max(earliest, second)
            case "lt":
                latest = min(latest, second)
            case "lte":
                latest = min(latest, second + 1)
    return earliest, latest


def _integer(name: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ApiError(400, f"Invalid integer: {text}", "parameter_invalid_integer", name)
    return int(text)


def _value(name: str, text: str) -> object:
    if name != "active":
        return text
    if text not in _BOOLEANS:
        raise ApiError(400, f"Invalid boolean: {text}", None, name)
    return _BOOLEANS[text]
