"""What a declaration says, and what follows from it where it is silent: names, entities, docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

from tidings.codecs.shapes import field_names, kind_of, name_of
from tidings.contracts.naming import base_name
from tidings.errors import ContractError

__all__ = ["check_key_fields", "check_name", "check_text", "check_topic", "check_version", "doc_of", "entity_name", "event_name"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._/-]{0,199}")
_TOPIC = re.compile(r"[!-~]{1,249}")
_VERSION_IN_NAME = re.compile(r"\.v\d+\Z", re.IGNORECASE)
_VERSION_IN_CLASS = re.compile(r"V(\d+)(IntegrationEvent)?\Z")
_SCALAR_MODULES = frozenset({"builtins", "datetime", "decimal", "uuid"})


def check_name(name: object, what: str) -> None:
    """Refuse a name that is not made of letters, digits and `.`, `-`, `_`, `/`, begins with a letter and has 200 characters at most."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ContractError(
            f"{name!r} cannot be {what}: it must begin with a letter and hold letters, digits and . - _ / only, 200 characters at most"
        )


def check_text(text: object, what: str) -> None:
    """Refuse a text that is empty or holds white space or control characters; None is fine."""
    if text is not None and (not isinstance(text, str) or not text.isprintable() or not text or " " in text):
        raise ContractError(f"{text!r} cannot be {what}. Use a non-empty text without spaces, or leave it out")


def check_topic(topic: object, what: str) -> None:
    """Refuse a topic that is not 1 to 249 printable ASCII characters without spaces: what the strictest broker takes."""
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        raise ContractError(f"{topic!r} cannot be the topic of {what}. Use 1 to 249 printable ASCII characters without spaces")


def check_version(version: object, what: str) -> None:
    """Refuse a version that is neither None nor a whole number from 1 to 32767."""
    if version is not None and (type(version) is not int or not 1 <= version <= 32767):
        raise ContractError(f"{version!r} cannot be the version of {what}. Use 1, 2, 3 ..., or None for an event without versions")


def check_key_fields(cls: type, fields: Sequence[str]) -> None:
    """Refuse a key of fields that do not exist, or of one field twice."""
    kind = kind_of(cls)
    known = field_names(cls, kind) if kind else ()
    for name in fields:
        if name not in known:
            raise ContractError(f"{name_of(cls)} has no field {name!r} to make its key of. Its fields are {', '.join(known) or 'none'}")
    if len(set(fields)) < len(fields):
        raise ContractError(f"{name_of(cls)} has a field twice in its key ({', '.join(fields)}). Remove one")


def event_name(name: str | None, version: int | None, cls: type) -> str:
    """Return the name of an event: the one given, or what the class is called without version and the suffix `IntegrationEvent`."""
    if name is None:
        name = base_name(cls.__name__)
        named = _VERSION_IN_CLASS.search(cls.__name__)
        if named and int(named[1]) != version:
            raise ContractError(f"{name_of(cls)} is declared as version {version}. Say version={int(named[1])}, or give the event's name")
    check_name(name, f"the name of {name_of(cls)}")
    if _VERSION_IN_NAME.search(name):
        raise ContractError(f"{name!r} cannot be the name of {name_of(cls)}: it ends with a version. Say version= instead")
    check_version(version, name)
    return name


def entity_name(entity: Any) -> str | None:
    """Return the name of an entity given as class or text. A scalar such as UUID names none: the event is about what its name says."""
    if entity is None or (isinstance(entity, type) and entity.__module__ in _SCALAR_MODULES):
        return None
    if isinstance(entity, type):
        return entity.__name__
    check_name(entity, "an entity's name")
    return str(entity)


def doc_of(cls: type) -> str:
    """Return the docstring that somebody wrote for a class, without indentation; a dataclass writes its signature where there is none."""
    doc = vars(cls).get("__doc__")
    return "" if not isinstance(doc, str) or doc.startswith(f"{cls.__name__}(") else inspect.cleandoc(doc)
