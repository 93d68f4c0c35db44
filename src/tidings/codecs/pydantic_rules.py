"""What pydantic models must keep to, so that every event that is written can be read, with nothing lost on the way.

pydantic is never imported here: where it is needed, the class at hand proves that it has been imported already.
"""

from __future__ import annotations

import sys
from typing import Any

from tidings.codecs.shapes import models_of
from tidings.errors import ContractError

__all__ = ["check_model", "refusal"]


def check_model(cls: Any, path: str) -> None:
    """Check the configuration and the aliases of a pydantic model.

    Raises:
        ContractError: it forbids extra fields, writes bytes otherwise than it reads them, or a field under a name that it does not read.
    """
    config = getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}
    if config.get("extra") == "allow":
        raise ContractError(
            f"{path} keeps extra fields, which can be anything, so they would not come back as they were. Declare the fields"
        )
    if config.get("extra") == "forbid":
        raise ContractError(
            f"{path} forbids extra fields. Services are upgraded one by one: a reader must ignore what a newer publisher has "
            'added. Remove extra="forbid"'
        )
    if config.get("ser_json_bytes", "utf8") != config.get("val_json_bytes", "utf8"):
        raise ContractError(
            f"{path} writes bytes as {config.get('ser_json_bytes', 'utf8')} and reads them as "
            f"{config.get('val_json_bytes', 'utf8')}. Set ser_json_bytes and val_json_bytes to the same"
        )
    by_name = bool(config.get("populate_by_name") or config.get("validate_by_name"))
    by_alias = config.get("validate_by_alias") is not False
    for name, field in models_of(cls).items():
        written = field.serialization_alias or name
        read = _read_names(name, field.validation_alias if by_alias else None, by_name=by_name)
        if written not in read:
            raise ContractError(
                f"{path}.{name} is written as {written!r} and read as {' or '.join(map(repr, sorted(read)))}. "
                f"Use Field(alias={written!r}), or give both aliases the same name"
            )


def refusal(hint: Any) -> tuple[str, str] | None:
    """Say why a type that only pydantic knows cannot be in an event, and what to do; None when it can."""
    pydantic = sys.modules["pydantic"]
    if hint is complex or hint is type(None):
        return "cannot be written as JSON", "Use two float fields"
    if isinstance(hint, type) and issubclass(hint, (pydantic.SecretStr, pydantic.SecretBytes)):
        return "is written as asterisks, and a secret does not belong into a public event", "Leave it out, or send a reference to it"
    try:
        schema = pydantic.TypeAdapter(hint).json_schema()
    except Exception as error:  # noqa: BLE001 - pydantic raises what the type's own schema hook raises
        return f"cannot be written as JSON ({type(error).__name__})", "Use a type that JSON knows, or a model"
    if not schema:
        return "can be anything, so it would not come back as it was", "Name the types: `int | str`, a model, a dict of these"
    return None


def _read_names(name: str, alias: Any, *, by_name: bool) -> set[str]:
    choices = getattr(alias, "choices", [alias])
    read = {choice for choice in choices if isinstance(choice, str)}
    for choice in choices:
        path = getattr(choice, "path", None)
        if path and len(path) == 1:
            read.add(path[0])
    if alias is None or by_name:
        read.add(name)
    return read or {"a nested path"}
