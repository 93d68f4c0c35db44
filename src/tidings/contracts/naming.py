"""Topic namers: from the event type, whose name is the same everywhere, to the topic, which may differ from one environment to the next.

A topic namer is any function with the signature of `TopicNamer`. Those below name topics as the systems do that Tidings learned from. All
of them obey an explicit `topic=`; it is put into the plural with `pluralize=True` only, a derived one unless `pluralize=False`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

from tidings.contracts.plural import plural
from tidings.errors import ContractError

if TYPE_CHECKING:
    from tidings.contracts.event_type import EventType

__all__ = ["TopicNamer", "base_name", "by_aggregate", "by_class_name", "by_event_name", "by_module", "by_segments", "kebab", "subject_of"]

# Hosting environments as ASP.NET Core calls them; any other name stands as it is, in lower case.
_ENVIRONMENTS = {"development": "dev", "testing": "test", "production": "prod"}
_WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\s_]+")
_VERSION = re.compile(r"(?<=.)V\d+\Z")
_IRREGULAR_PARTICIPLES = frozenset(
    {
        "Begun", "Bought", "Bound", "Broken", "Brought", "Built", "Caught", "Chosen", "Cut", "Done", "Driven", "Forgotten", "Found",
        "Frozen", "Given", "Gone", "Grown", "Held", "Hidden", "Hit", "Kept", "Known", "Left", "Lost", "Made", "Met", "Overdrawn",
        "Overridden", "Overwritten", "Paid", "Put", "Read", "Rebuilt", "Repaid", "Resent", "Reset", "Run", "Sent", "Set", "Shown",
        "Shut", "Sold", "Spent", "Split", "Taken", "Thrown", "Undone", "Unpaid", "Withdrawn", "Won", "Written",
    }
)  # fmt: skip
_PARTICLES = frozenset(
    {
        "Away", "Back", "Down", "In", "Off", "On", "Out", "Over", "Through", "Up",
    }
)  # fmt: skip
_NOUNS_IN_ED = frozenset(
    {
        "Bed", "Breed", "Deed", "Feed", "Need", "Newsfeed", "Seed", "Shed", "Speed", "Weed",
    }
)  # fmt: skip


class TopicNamer(Protocol):
    """Names the topic of an event type. The answer is kept, so the same arguments must always give the same topic."""

    def __call__(self, event_type: EventType[Any], environment: str | None, /) -> str:
        """Return the topic: 1 to 249 characters without white space.

        Args:
            event_type: its `name`, `version`, `cls`, `internal`, `domain`, `entity`, `explicit_topic`, `pluralize` and `contract`.
            environment: where the service runs, e.g. `dev` or `Production`; None when it does not say.
        """
        ...


def by_event_name(event_type: EventType[Any], environment: str | None = None, /) -> str:
    """Return the event's name: `order.placed`. The default.

    With `entity=`, all events of one entity share `{domain}.{entities}`, so that a broker keeps their order: `shop.orders`.
    """
    if event_type.explicit_topic is None and event_type.entity is not None:
        return f"{event_type.domain.lower()}.{_numbered(kebab(event_type.entity), event_type, derived=True)}"
    return _explicit(event_type) or event_type.name


def by_class_name(event_type: EventType[Any], environment: str | None = None, /) -> str:
    """Return the name of the class, as NetCorePal does: `OrderCreatedIntegrationEvent`."""
    return _explicit(event_type) or event_type.cls.__name__


def by_module(event_type: EventType[Any], environment: str | None = None, /) -> str:
    """Return `{module}.{event}` or, with `entity=`, `{module}.{aggregate}.{event}` in kebab case, as PearDrop does.

    The module is the contract's name, the event the last part of the event's: `equipment.equipment-created`.
    """
    parts = [event_type.contract.name, event_type.entity, event_type.name.rpartition(".")[2]]
    return _explicit(event_type) or ".".join(kebab(part) for part in parts if part)


def by_aggregate(event_type: EventType[Any], environment: str | None = None, /) -> str:
    """Return one topic for all events of an aggregate, as SuperSafeBank does: the entity's name, else what the event happened to."""
    return _explicit(event_type) or event_type.entity or subject_of(event_type.cls.__name__)


def by_segments(event_type: EventType[Any], environment: str | None, /) -> str:
    """Return `{environment}.{domain}.{scope}.{topic}.{version}`, as Momentum does: `dev.appdomain.public.cashiers.v1`.

    The scope is `public` or `internal`; the topic is what the event happened to, in the plural; a type without version ends without one.
    `Development`, `Testing` and `Production` are `dev`, `test` and `prod`; any other environment stands as it is, in lower case.

    Raises:
        ContractError: the environment is not known.
    """
    if not environment:
        raise ContractError(f"The topic of {event_type} begins with the environment, and none is given. Name it: 'dev', 'test' or 'prod'")
    topic = _explicit(event_type) or _numbered(kebab(event_type.entity or subject_of(event_type.cls.__name__)), event_type, derived=True)
    segments = [
        _ENVIRONMENTS.get(environment.lower(), environment.lower()),
        event_type.domain.lower(),
        "internal" if event_type.internal else "public",
        topic,
    ]
    return ".".join(segments if event_type.version is None else [*segments, f"v{event_type.version}"])


def kebab(name: str) -> str:
    """Return a class name or phrase in kebab case: `EquipmentCreated` becomes `equipment-created`."""
    return _WORD_BORDER.sub("-", name).lower()


def base_name(class_name: str) -> str:
    """Return a class name without a version and the suffix `IntegrationEvent`: `UserCreatedIntegrationEventV2` becomes `UserCreated`."""
    name = _VERSION.sub("", class_name)
    return _VERSION.sub("", name.removesuffix("IntegrationEvent") or name)


def subject_of(class_name: str) -> str:
    """Return what an event happened to, by stripping the verb: `CashierDeleted` becomes `Cashier`, `UserLoggedIn` `User`."""
    words = _WORD_BORDER.sub(" ", base_name(class_name)).split()
    rest = words[:-1] if len(words) > 1 and words[-1] in _PARTICLES and _is_participle(words[-2]) else words
    if _is_participle(rest[-1]):
        rest = rest[:-1]
        while rest and rest[-1].endswith("ly"):
            rest = rest[:-1]
    return "".join(rest) or "".join(words)


def _is_participle(word: str) -> bool:
    return word in _IRREGULAR_PARTICIPLES or (word.endswith("ed") and len(word) > 3 and word not in _NOUNS_IN_ED)


def _explicit(event_type: EventType[Any]) -> str | None:
    topic = event_type.explicit_topic
    return None if topic is None else _numbered(topic, event_type, derived=False)


def _numbered(topic: str, event_type: EventType[Any], *, derived: bool) -> str:
    wanted = derived if event_type.pluralize is None else event_type.pluralize
    return plural(topic) if wanted else topic
