"""The parameters of every list, for pages and JSON API alike, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tidings.dashboard.call import Call, Problem, cursor
from tidings.dashboard.params import BadParameter, Param, canonical
from tidings.stores.sql.views import LogFilter
from tidings.stores.sql.views_keys import LanePlace
from tidings.stores.sql.views_parked import FailureFilter

__all__ = [
    "AUDIT",
    "EVENTS",
    "FAILURES",
    "KEYS",
    "RANGE",
    "SCHEDULED",
    "SPANS",
    "failure_filter",
    "lane_of_place",
    "log_filter",
    "number_of",
    "place_of",
    "place_text",
]

SPANS = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24)}

RANGE = Param("range", "how far back charts go", among=tuple(SPANS), default="1h")
_LIMIT = Param("limit", "at most so many", "integer", low=1, high=200, default=50)
_BEFORE = Param("before", "what follows this place: `before` of the page that came first", "integer", low=0, high=2**62)
_TIME_AND_ID = (
    r"^(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{3}|\.[0-9]{6})?\+00:00"
    r"~[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}"
)
_FOLLOWS = "the place that this follows: `after` of the page that came first"
_AFTER = Param("after", _FOLLOWS, low=1, high=100, pattern=f"{_TIME_AND_ID}$")
_AFTER_LANE = Param("after", _FOLLOWS, low=1, high=100, pattern=f"{_TIME_AND_ID}~[0-9]{{1,9}}$")
_SERVICE = Param("service", "of this service", high=255)
_SUBSCRIPTION = Param("subscription", "of this subscription: name, or group/name", high=512)
_KEY = Param("key", "of this partition key", high=1024)

EVENTS = (
    Param("name", "events of this name; * stands for anything", high=255),
    Param("topic", "of this topic", high=255),
    _KEY,
    Param("source", "published by this service", high=255),
    Param("correlation", "of this conversation", high=255),
    Param("text", "with this text in the data", high=200),
    Param("since", "published at this time or later", "time"),
    Param("until", "published before this time", "time"),
    _BEFORE,
    _LIMIT,
)
FAILURES = (
    _SERVICE,
    _SUBSCRIPTION,
    Param("event", "events of this name", high=255),
    Param("event_id", "of the event with this id, wherever it came from", high=255),
    _KEY,
    Param("state", "of keys in this state", among=("dead", "retrying")),
    Param("since", "failed last at this time or later", "time"),
    Param("until", "failed last before this time", "time"),
    _BEFORE,
    _LIMIT,
)
KEYS = (
    Param("state", "keys in this state", among=("dead", "retrying"), default="dead"),
    _SERVICE,
    _SUBSCRIPTION,
    _KEY,
    _AFTER_LANE,
    _LIMIT,
)
SCHEDULED = (_AFTER, _LIMIT)
AUDIT = (_BEFORE, _LIMIT)


def log_filter(values: Mapping[str, Any]) -> LogFilter:
    """Return what to look for in the log."""
    return LogFilter(**{name: values[name] for name in LogFilter._fields})


def failure_filter(values: Mapping[str, Any], **further: Any) -> FailureFilter:
    """Return which failures to look for."""
    return FailureFilter(**{name: values[name] for name in FailureFilter._fields if name in values} | further)


def place_of(given: str | None) -> tuple[datetime, str] | None:
    """Return a place in a list by time.

    Raises:
        BadParameter: it is none.
    """
    if given is None:
        return None
    at, _, last = given.partition("~")
    bad = BadParameter("after", given, "give what `after` of another page says")
    try:
        time = datetime.fromisoformat(at)
        if time.tzinfo is None or canonical(last) is None:
            raise bad
        return time.astimezone(UTC), last
    except (ValueError, OverflowError):
        raise bad from None


def lane_of_place(given: str | None) -> LanePlace | None:
    """Return a place in the list of keys.

    Raises:
        BadParameter: it is none.
    """
    if given is None:
        return None
    first, _, number = given.rpartition("~")
    place = place_of(first)
    if place is None or not number.isascii() or not number.isdigit():
        raise BadParameter("after", given, "give what `after` of another page says")
    return LanePlace(*place, int(number))


def place_text(place: LanePlace | None) -> str | None:
    """Return a place in the list of keys as `lane_of_place` reads it."""
    return None if place is None else f"{cursor(place.at, place.lane)}~{place.subscription_id}"


def number_of(call: Call, high: int = 2**31 - 1) -> int:
    """Return the number in a route's path.

    Raises:
        Problem: it is none.
    """
    given = call.request.path_params["number"]
    if not given.isascii() or not given.isdigit() or len(given) > 18 or int(given) > high:
        raise Problem(404, f"{given[:40]!r} is no number of ours.")
    return int(given)
