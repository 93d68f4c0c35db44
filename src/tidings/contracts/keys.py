r"""Partition keys: what order is kept by, as text.

One value is its own text. Several are joined by `|`, with `|` and `\` inside them escaped by `\`, so that two different lists of the same
length never share a key. Numbers with a fraction and times are refused: `1.0` and `1.00` are equal and would be two keys.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin
from uuid import UUID

from tidings.codecs.shapes import name_of, unwrapped
from tidings.errors import ContractError, InvalidEvent

__all__ = ["MAX_KEY_BYTES", "PartitionKey", "key_reader", "key_text", "marked_fields", "normalize_key"]

#: The longest key, in UTF-8 bytes: what every supported broker and every database index can take.
MAX_KEY_BYTES = 1024

_REMEDY = "Use a str, int, UUID or Enum field: an id of what the events are about"


@dataclasses.dataclass(frozen=True)
class PartitionKey:
    """Marks a field as part of the key: `tenant_id: Annotated[UUID, PartitionKey(order=0)]`.

    Attributes:
        order: its place among the parts of a key of several fields; must differ from field to field.
    """

    order: int = 0


def normalize_key(value: object) -> str | None:
    """Return the key for a value given by a caller: a str, int, UUID or Enum, a tuple or list of these, or None.

    A str is taken as it is, so that the key of another event's envelope can be handed on.

    Raises:
        InvalidEvent: another type, an empty key, a NUL, half of a surrogate pair, or more than 1024 bytes of UTF-8.
    """
    return key_text(value if isinstance(value, (tuple, list)) else (value,))


def key_text(values: Sequence[object]) -> str | None:
    """Return the key that some values make together; None when all of them are None, else a None is an empty part.

    Raises:
        InvalidEvent: as `normalize_key`.
    """
    parts = [_part(value) for value in values]
    if len(parts) == 1:
        text = parts[0]
        if text is None:
            return None
    elif parts and all(part is None for part in parts):
        return None
    else:
        text = "|".join([part.replace("\\", "\\\\").replace("|", "\\|") if part else "" for part in parts])
    if not text:
        raise InvalidEvent("A key is empty. Give it a value, or None for an event without key")
    if len(text) > MAX_KEY_BYTES or not text.isascii() or "\0" in text:
        _check_text(text)
    return text


def marked_fields(hints: Mapping[str, Any], owner: str) -> tuple[str, ...]:
    """Return the fields that are marked with `PartitionKey`, in its order.

    Raises:
        ContractError: two fields have the same order.
    """
    marked: dict[int, str] = {}
    for name, hint in hints.items():
        for extra in getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ():
            mark = PartitionKey() if extra is PartitionKey else extra
            if not isinstance(mark, PartitionKey):
                continue
            if mark.order in marked:
                raise ContractError(
                    f"{owner}.{name}: PartitionKey(order={mark.order}) is {owner}.{marked[mark.order]} already. Give every part of the key "
                    "an order of its own: PartitionKey(order=0), PartitionKey(order=1)"
                )
            marked[mark.order] = name
    return tuple(marked[order] for order in sorted(marked))


def key_reader(cls: type, fields: Sequence[str], hints: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """Return the function that reads an event's key.

    Args:
        cls: the event class.
        fields: the fields that make up the key, all of them in `hints`.
        hints: the resolved types of the fields of `cls`.

    Raises:
        ContractError: a field's type does not make a stable key.
    """
    owner = name_of(cls)
    parts = [(name, tuple(_key_types(hints[name], f"{owner}.{name}"))) for name in fields]

    def read(event: Any) -> str | None:
        values = []
        for name, allowed in parts:
            value = getattr(event, name)
            if not isinstance(value, allowed):
                wanted = " or ".join(name_of(kind) for kind in allowed)
                raise InvalidEvent(f"{owner}.{name} is part of the key and holds {name_of(type(value))} instead of {wanted}. Convert it")
            values.append(value)
        try:
            return key_text(values)
        except InvalidEvent as error:
            raise InvalidEvent(f"{owner} has no usable key ({', '.join(fields)}): {error}") from None

    if len(parts) > 1:
        return read
    only = fields[0]

    def read_one(event: Any) -> str | None:
        value = getattr(event, only)
        # What nearly every key is; everything else, and every error, is decided above.
        if type(value) is str and 0 < len(value) <= MAX_KEY_BYTES and value.isascii() and "\0" not in value:
            return value
        return read(event)

    return read_one if str in parts[0][1] else read


def _key_types(hint: Any, path: str) -> list[type]:
    hint = unwrapped(hint)
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for argument in get_args(hint) for kind in _key_types(argument, path)]
    if origin is Literal:
        return [kind for value in get_args(hint) for kind in _key_types(type(value), path)]
    if hint is None or hint is type(None):
        return [type(None)]
    if hint in (str, int, UUID):
        return [hint]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            _key_types(str if isinstance(member.value, str) else type(member.value), path)
        return [hint]
    reason = _REASONS.get(hint.__name__ if isinstance(hint, type) else "", "does not make a text that stays the same")
    raise ContractError(f"{path}: {name_of(hint)} cannot be a key: it {reason}. {_REMEDY}")


_REASONS = {
    "bool": "would put all events into two lanes",
    "float": "has several texts for one number, such as 1.0 and 1.00",
    "Decimal": "has several texts for one number, such as 1.0 and 1.00",
    "datetime": "has several texts for one moment, one in each time zone",
}


def _part(value: object) -> str | None:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, UUID):
        return UUID.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if -(10**100) < value < 10**100:
            return int.__str__(value)
        raise InvalidEvent("A key holds an int of more than 100 digits. Use an id")
    if value is None:
        return None
    raise InvalidEvent(f"A key cannot hold {name_of(type(value))}. Use a str, int, UUID or Enum, or a tuple of these")


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(f"The key {text[:80]!r} holds half of a surrogate pair, which is not text. Remove it") from None
    if "\0" in text:
        raise InvalidEvent(f"The key {text[:80]!r} holds a NUL character, which no database can store as text. Remove it")
    if size > MAX_KEY_BYTES:
        raise InvalidEvent(f"The key {text[:80]!r}... has {size} bytes, and {MAX_KEY_BYTES} is the most. Use an id or a digest")
