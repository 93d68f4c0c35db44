"""Event types: a name and a version with the Python class that carries them, and everything that is needed to write, read and send one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, final

from tidings.codecs import PayloadCodec, Scope, payload_codec
from tidings.codecs.shapes import field_hints, name_of
from tidings.contracts.declaration import check_topic
from tidings.contracts.keys import key_reader, marked_fields
from tidings.errors import ContractError, InvalidEvent

if TYPE_CHECKING:
    from tidings.contracts.contract import Contract

__all__ = ["EventType", "Readings", "label_of"]

E = TypeVar("E")


def label_of(name: str, version: int | None) -> str:
    """Return how messages call an event type: `order.placed v2`, or the name alone."""
    return name if version is None else f"{name} v{version}"


class Readings(Generic[E]):
    """What reading the annotations of an event class gives. They may name classes that come later in the module, so it may happen late.

    Args:
        scope: of the function that defines the class, if one does; kept until the annotations have been read.
    """

    __slots__ = ("codec", "key", "keyed", "scope", "topics")

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        self.codec: PayloadCodec[E] | None = None
        self.key: Callable[[E], str | None] | None = None
        self.keyed = False
        self.topics: dict[str | None, str] = {}


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EventType(Generic[E]):
    """A name and a version with their class; made by `Contract.event`, never by hand.

    Attributes:
        contract: the contract that promises it.
        name: what the fact is called everywhere, whatever the environment: `order.placed`.
        version: 1 and up; None for a type without versions.
        cls: the event class.
        internal: whether it is for the publishing service only.
        lock_keys: whether publishers of one key queue for each other's commit, so that everyone sees the key in one order.
        key_fields: the fields given as `key=`; empty when it has no key or the fields are marked with `PartitionKey`.
        explicit_topic: the topic given as `topic=`, or None.
        domain: the domain given, else the contract's.
        entity: the name of the entity it is about, or None.
        pluralize: whether the topic is put into the plural: None means derived topics only.
        doc: the docstring of the class, its indentation removed; empty when it has none.
    """

    contract: Contract
    name: str
    version: int | None
    cls: type[E]
    internal: bool = False
    lock_keys: bool = True
    key_fields: tuple[str, ...] = ()
    explicit_topic: str | None = None
    domain: str
    entity: str | None = None
    pluralize: bool | None = None
    doc: str = ""
    _readings: Readings[E]

    def __str__(self) -> str:
        return label_of(self.name, self.version)

    def __repr__(self) -> str:
        return f"<EventType {self} of {self.contract.name}: {name_of(self.cls)}>"

    @property
    def keyed(self) -> bool:
        """Whether its events have a key; a single one may still be without, when its key fields are None."""
        self._codec()
        return self._readings.keyed

    def encode(self, event: E) -> str:
        """Return the event's data as JSON text that `decode` takes.

        Raises:
            InvalidEvent: it is not an instance of `cls`, or a field holds what `decode` would refuse or JSON cannot carry: NaN, half of a
                surrogate pair, a value of another type.
            ContractError: the class was declared with a type that does not exist.
        """
        return self.encoder()(event)

    def encoder(self) -> Callable[[E], str]:
        """Return what `encode` does as a function, for whoever encodes many.

        Raises:
            ContractError: the class was declared with a type that does not exist.
        """
        return (self._readings.codec or self._codec()).encode

    def decode(self, data: str | bytes) -> E:
        """Return the event that JSON text stands for; fields that the class does not have are ignored.

        Raises:
            DecodeError: for whatever reason it is no such event; nothing else gets out, however hostile the data.
            ContractError: the class was declared with a type that does not exist.
        """
        return (self._readings.codec or self._codec()).decode(data)

    def key_of(self, event: E) -> str | None:
        """Return the event's partition key, or None when the type has none or its key fields are None.

        Raises:
            InvalidEvent: a key field holds a value of another type than declared, or the key is empty, longer than 1024 bytes or no text.
        """
        if self._readings.codec is None:
            self._codec()
        read = self._readings.key
        if read is None:
            return None
        if type(event) is not self.cls:
            raise InvalidEvent(f"{self} is published as {name_of(self.cls)}, not as {name_of(type(event))}")
        return read(event)

    def topic(self, environment: str | None = None) -> str:
        """Return the topic that the contract's namer gives the type in an environment.

        Raises:
            ContractError: the namer needs an environment, or gave something that is no topic.
        """
        known = self._readings.topics
        if environment not in known:
            topic = self.contract.namer(self, environment)
            check_topic(topic, str(self))
            known[environment] = topic
        return known[environment]

    def check(self) -> None:
        """Read the annotations of the class, if that has not been possible yet.

        Raises:
            Unresolved: a type that one of its fields names does not exist.
            ContractError: the class cannot be an event, or its key cannot be a key.
        """
        self._codec()

    def _codec(self) -> PayloadCodec[E]:
        readings = self._readings
        if readings.codec is None:
            codec = payload_codec(self.cls, str(self), readings.scope)
            hints = field_hints(self.cls, readings.scope)
            marked = marked_fields(hints, name_of(self.cls))
            if self.key_fields and marked:
                raise ContractError(
                    f"{name_of(self.cls)} has key={', '.join(self.key_fields)} and fields marked with PartitionKey ({', '.join(marked)}). "
                    "Keep one of the two"
                )
            fields = self.key_fields or marked
            readings.key = key_reader(self.cls, fields, hints) if fields else None
            readings.keyed = bool(fields)
            readings.codec = codec
            readings.scope = None
        return readings.codec
