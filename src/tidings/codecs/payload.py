"""Payload codecs: an event as JSON text and back.

What a codec writes it can read: `encode` decodes what it has encoded, because msgspec writes a str into a UUID's place, and NaN as null,
without a word. That costs a microsecond and is the last moment at which the caller can still be told. What is only checked is read into a
mirror of the class, where there is one.

Times are written as RFC 3339 with offsets in whole minutes; an offset with seconds (local mean time, before about 1937) is cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, final, get_origin

import msgspec

from tidings.codecs.faults import DEPTH, depth_of, not_finite, reason_of, unencodable
from tidings.codecs.jsonable import Findings, examine
from tidings.codecs.mirrors import mirror_of
from tidings.codecs.shapes import Scope, Unresolved, field_hints, kind_of, name_of, unwrapped
from tidings.errors import ContractError, DecodeError, InvalidEvent

__all__ = ["PayloadCodec", "payload_codec"]

E = TypeVar("E")


class PayloadCodec(Protocol[E]):
    """Writes and reads the events of one class."""

    def encode(self, event: E, /) -> str:
        """Return the event as JSON text.

        Raises:
            InvalidEvent: it is not an instance of the class itself, or `decode` would refuse the text.
        """
        ...

    def decode(self, data: str | bytes, /) -> E:
        """Return the event that JSON text stands for; fields that the class does not have are ignored.

        Raises:
            DecodeError: for whatever reason the text is not such an event: malformed, too deep, a missing field, a validator's refusal.
        """
        ...


def payload_codec(cls: type[E], label: str, scope: Scope | None = None) -> PayloadCodec[E]:
    """Return the codec of an event class.

    Args:
        cls: a frozen dataclass, msgspec Struct, attrs class or pydantic model.
        label: what error messages call the event type, e.g. `order.placed v2`.
        scope: of the function that defines the class, if one does.

    Raises:
        ContractError: the class cannot be an event.
        Unresolved: a type that one of its fields names cannot be found yet.
    """
    findings = examine(cls, scope)
    if kind_of(cls) == "pydantic":
        model: Any = cls
        serializer, validator = model.__pydantic_serializer__, model.__pydantic_validator__

        def write(event: Any) -> bytes:
            text: bytes = serializer.to_json(event, by_alias=True, warnings=False)
            return text

        return _Codec(cls, label, findings, write, validator.validate_json)
    read = _decoder(cls, scope).decode
    mirror = mirror_of(cls, scope)
    check: Callable[[bytes], object] | None = None if mirror is None else _decoder(mirror, scope).decode
    return _Codec(cls, label, findings, msgspec.json.Encoder(enc_hook=_write_model).encode, read, check)


@final
class _Codec(Generic[E]):
    __slots__ = ("_check", "_cls", "_label", "_numbers", "_read", "_recursive", "_write")

    def __init__(
        self,
        cls: type[E],
        label: str,
        findings: Findings,
        write: Callable[[Any], bytes],
        read: Callable[[str | bytes], E],
        check: Callable[[bytes], object] | None = None,
    ) -> None:
        self._cls = cls
        self._label = label
        self._numbers, self._recursive = findings
        self._write = write
        self._read = read
        self._check = check or read

    def encode(self, event: E, /) -> str:
        if type(event) is not self._cls:
            raise InvalidEvent(
                f"{self._label} is published as {name_of(self._cls)}, not as {name_of(type(event))}. Construct {name_of(self._cls)} itself"
            )
        try:
            data = self._write(event)
        except Exception as error:
            raise self._invalid(self._blame(event, error)) from error
        # NaN becomes null in msgspec, null, NaN or "NaN" in pydantic; Decimal("NaN") becomes "NaN" and is read back as itself.
        if self._numbers and (b"null" in data or b"NaN" in data or b"Infinity" in data):
            for name in self._numbers:
                if found := not_finite(getattr(event, name, None), f".{name}"):
                    raise self._invalid(found)
        text = data.decode()
        if self._recursive and text.count("[") + text.count("{") > DEPTH and depth_of(text) > DEPTH:
            raise self._invalid(f" is nested deeper than {DEPTH} levels, which not every reader can stand. Refer to the inner parts by id")
        try:
            self._check(data)
        except Exception as error:
            raise self._invalid(reason_of(error)) from error
        return text

    def decode(self, data: str | bytes, /) -> E:
        try:
            return self._read(data)
        except MemoryError:
            raise
        except Exception as error:
            raise DecodeError(
                f"{self._label}: the data is not {name_of(self._cls)}{reason_of(error)}. "
                "If the class has changed, declare a new version and an upcaster"
            ) from error

    def _invalid(self, what: str) -> InvalidEvent:
        return InvalidEvent(f"{self._label} is not published: {name_of(self._cls)}{what}")

    def _blame(self, event: E, error: Exception) -> str:
        if isinstance(error, RecursionError):
            return reason_of(error)
        write = sys.modules["pydantic_core"].to_json if kind_of(self._cls) == "pydantic" else self._write
        return unencodable(write, event, "") + reason_of(error)


def _decoder(cls: type[E], scope: Scope | None) -> msgspec.json.Decoder[E]:
    try:
        return msgspec.json.Decoder(cls, dec_hook=_read_model)
    except NameError as error:
        # A name that is needed by an annotation of no field, such as a ClassVar's.
        raise Unresolved(f"{name_of(cls)}: {error}. Import it at run time, not under `if TYPE_CHECKING:`") from error
    except Exception as error:
        path, reason = _undecodable(cls, scope, name_of(cls), error)
        raise ContractError(f"{path}: {_sentence(reason)}. Choose a type that a reader can tell from its JSON") from error


def _undecodable(target: Any, scope: Scope | None, path: str, error: Exception) -> tuple[str, Exception]:
    """Return the path of the innermost field that msgspec refuses, and what it says, given that it refuses `target` with `error`."""
    if kind_of(get_origin(target) or target) is not None:
        for name, hint in field_hints(target, scope).items():
            try:
                msgspec.json.Decoder(hint, dec_hook=_read_model)
            except Exception as reason:  # noqa: BLE001 - what msgspec or a hook says of the type, whatever it is
                return _undecodable(unwrapped(hint), scope, f"{path}.{name}", reason)
    return path, error


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _write_model(value: Any) -> Any:
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is None:
        raise TypeError(f"{name_of(type(value))} cannot be written as JSON")
    return serializer.to_python(value, mode="json", by_alias=True, warnings=False)


def _read_model(cls: type, value: Any) -> Any:
    # JSON once more, because pydantic reads a UUID or a date from a string only where it knows that it reads JSON.
    return cls.__pydantic_validator__.validate_json(msgspec.json.encode(value))  # type: ignore[attr-defined]
