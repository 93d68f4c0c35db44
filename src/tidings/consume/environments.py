"""Routing by environment: which of several environments of a service handles an event, where they share a database and its log.

An event belongs to the environment in its header `x-env`, or to the default one. Each environment reads the log by a group of its own, and decides
for itself:

1. The event belongs to my environment: handle it.
2. A worker of the event's environment lives: leave it to that.
3. Mine is the default environment: handle it.
4. Leave it.

Who lives is known a little late, so two environments may both come to take an event, a worker having started or stopped in between. What decides
then is one inbox row that both insert. An event that was left to an environment which has died since waits for it in the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.fences import NO_LANE
from tidings.consume.outcome import Outcome
from tidings.consume.parking import guarded
from tidings.consume.received import Received
from tidings.consume.routing import Compiled
from tidings.context.keys import ENVIRONMENT
from tidings.errors import ConfigurationError, DecodeError
from tidings.stores.sql.queries import SHARED
from tidings.stores.sql.registry import Wanted
from tidings.stores.sql.store import SQLStore

__all__ = ["Claims", "EnvironmentRouting", "Environments", "group_of", "reads_as", "routing_of"]

logger = logging.getLogger("tidings.consume")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class EnvironmentRouting:
    """How events find their environment: `Service(environment="canary", route_by_environment=EnvironmentRouting(default="main"))`.

    Args:
        default: the environment that handles what belongs to none, or to one of which no worker lives.
        alive: seconds since the last heartbeat of a worker (they beat every 10 s) after which it counts as dead; 15 to 3600.
        look: seconds for which is believed what the last look at the workers found; 0 to 60.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    default: str = "main"
    alive: float = 30.0
    look: float = 2.0

    def __post_init__(self) -> None:
        check_name("EnvironmentRouting default", self.default)
        if not 15 <= self.alive <= 3600 or not 0 <= self.look <= 60:
            raise ConfigurationError(
                f"EnvironmentRouting(alive={self.alive!r}, look={self.look!r}): give 15 to 3600 seconds, and 0 to 60 seconds"
            )


def check_name(what: str, name: object) -> None:
    """Refuse a name of an environment that cannot be part of a group's name."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(f"{what}={name!r}: give 1 to 64 letters, figures, '-' or '_', e.g. 'canary'")


def routing_of(given: object, environment: str | None) -> EnvironmentRouting | None:
    """Return what `Service(route_by_environment=...)` means.

    Raises:
        ConfigurationError: it is neither a truth value nor a routing, or the service says no environment.
    """
    if given is False or given is None:
        return None
    routing = EnvironmentRouting() if given is True else given
    if not isinstance(routing, EnvironmentRouting):
        raise ConfigurationError(f"Service route_by_environment={given!r}: give True, or EnvironmentRouting(default='main')")
    check_name("Service with route_by_environment: environment", environment)
    return routing


def group_of(group: str, environment: str | None, routing: EnvironmentRouting | None) -> str:
    """Return the group by which an environment reads: that of the default one has the plain name, and goes on where it was without routing."""
    return group if routing is None or environment == routing.default else f"{group}@{environment}"


def reads_as(group: str, environment: str | None, routing: EnvironmentRouting | None) -> bool:
    """Whether a group of the service is this environment's, by its name."""
    if routing is None:
        return True
    _, at, other = group.rpartition("@")
    return not at if environment == routing.default else other == environment


def label_of(received: Received) -> str | None:
    """Return the environment that an event says that it belongs to; what is no text that could be one is none."""
    word = ENVIRONMENT.field
    # Most events say none: look for the word before paying for the parse.
    if (word if isinstance(received.headers, str) else word.encode()) not in received.headers:  # type: ignore[operator]
        return None
    try:
        return ENVIRONMENT.read({name: text for name, text in received.extensions.items() if isinstance(text, str)})
    except DecodeError:
        return None


@dataclass(slots=True)
class Environments:
    """Decides for one environment of a service, by the workers that are alive.

    Attributes:
        own: this service's environment.
    """

    service: str
    own: str
    routing: EnvironmentRouting
    store: SQLStore
    _alive: frozenset[str] = frozenset()
    _looked: float | None = field(default=None)

    async def takes(self, received: Received) -> bool:
        """Whether this environment handles an event.

        Raises:
            StoreDown: it cannot be known who lives.
        """
        belongs = label_of(received) or self.routing.default
        if belongs == self.own:
            return True
        if self.own != self.routing.default:
            return False
        return belongs not in await self._living()

    async def _living(self) -> frozenset[str]:
        if self._looked is None or elapsed() - self._looked >= self.routing.look:
            looked = elapsed()
            found = await guarded(self.store.call(self.store.upkeep.environments, self.service, self.routing.alive))
            if found != self._alive:
                logger.info("service %s: environments alive: %s", self.service, ", ".join(sorted(found)) or "none")
            self._alive, self._looked = found, looked
        return self._alive


@dataclass(frozen=True, slots=True)
class Claims:
    """What keeps an event from being handled by two environments: an inbox row of a subscription that all of them share.

    Attributes:
        id: of that subscription; it has no events and no lanes.
    """

    id: int
    default: str
    store: SQLStore

    @staticmethod
    def wanted(compiled: Compiled, base: str) -> Wanted:
        """Return the subscription to register; `base` is the group of the default environment."""
        return Wanted(f"{base}{SHARED}", compiled.name, (), False, compiled.options.renamed_from)

    def keys(self, events: Sequence[Received]) -> list[int]:
        """Return the places of the events that another environment may take, too."""
        return [place for place, event in enumerate(events) if (label_of(event) or self.default) != self.default]

    def open(self, connection: Connection, events: Sequence[Received]) -> set[int]:
        """Insert the rows; return the places of those that another environment has handled, or wait until it has."""
        places = self.keys(events)
        if not places:
            return set()
        keys = [events[place].event_key for place in places]
        taken = self.store.inbox.open(connection, self.id, keys, [NO_LANE] * len(keys))
        return {places[index] for index in taken}

    def taken(self, connection: Connection, events: Sequence[Received]) -> set[int]:
        """Return the places of those that another environment has handled, and insert nothing."""
        places = self.keys(events)
        if not places:
            return set()
        keys = [events[place].event_key for place in places]
        return {places[index] for index in self.store.inbox.standing(connection, self.id, keys, [NO_LANE] * len(keys))}

    def record(self, connection: Connection, events: Sequence[Received]) -> None:
        """Write down that calls without transaction were made."""
        if places := self.keys(events):
            self.store.inbox.record(connection, self.id, [events[place].event_key for place in places], Outcome.HANDLED)
