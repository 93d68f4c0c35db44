"""Writing down who executed which command, when, and what came of it; failures too."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from time import perf_counter
from typing import Any

import msgspec

from tidings import clock
from tidings.consume.failures import failure_of, printable
from tidings.domain.calling import can_await
from tidings.domain.commands import Call, Proceed
from tidings.domain.idempotency import plain
from tidings.domain.results import Err
from tidings.domain.secrets import Secret
from tidings.domain.unit_of_work import Work, current_work
from tidings.errors import ValidationFailed
from tidings.ids import uuid7
from tidings.stores.sql.commands import AuditRow

__all__ = ["Audit", "described"]

logger = logging.getLogger("tidings.commands")

_HIDDEN = "***"


class Audit:
    """Writes each command into the store's table `commands`; put it before `Transactional()` in the list.

    A command that succeeds is written in its own transaction, so that there is no effect without a row and no row without its effect. One that
    fails is written after the rollback, in a transaction of its own. `Service.audited` reads the rows.

    Args:
        actor: called for each command; says who asks for it, e.g. `lambda: current_user.get()`.
        redact: names of fields whose values are not written, besides those marked `Annotated[..., Secret()]`.
    """

    def __init__(self, *, actor: Callable[[], str | None] = lambda: None, redact: Collection[str] = ()) -> None:
        self._actor = actor
        self._redact = frozenset(redact)

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        commands = call.commands
        around = current_work(commands.domain)
        # Drawn when it begins: it orders commands of one moment.
        identity = str(uuid7())
        started_at, started = clock.now(), perf_counter()
        actor = self._actor()
        data = described(call.command, self._redact)
        written = False

        def row(outcome: str, error_type: str | None = None, message: str | None = None) -> AuditRow:
            return _row(identity, call, actor, data, outcome, error_type, message, started_at, started)

        async def succeeded(work: Work) -> None:
            nonlocal written
            written = True
            outcome = "repeated" if call.repeated else "succeeded"
            await work.run(lambda session: _write(call, session.connection(), row(outcome)), blocking=call.blocking)
            if around is not None:
                work.finished.append(undone)

        async def undone(committed: bool) -> None:
            if not committed:
                await _alone(call, row("rolled back"))

        async def failed(entry: AuditRow) -> None:
            if around is None:
                await _alone(call, entry)
            else:
                # Until the transaction around this one has ended, SQLite would wait for it.
                around.finished.append(lambda _: _alone(call, entry))

        call.succeeding.append(succeeded)
        try:
            result = await proceed()
        except Exception as error:
            failure = failure_of(error)
            kind = "rejected" if isinstance(error, ValidationFailed) else "failed"
            await failed(row(kind, failure.error_type, failure.error_message))
            raise
        if isinstance(result, Err) and not written:
            await failed(row("rejected", type(result.error).__qualname__, printable(str(result.error), 2000)))
        elif not written:
            await failed(row("succeeded"))  # there is no transaction
        return result


def _row(
    identity: str, call: Call, actor: str | None, data: str, outcome: str, error_type: str | None, message: str | None,
    started_at: datetime, started: float,
) -> AuditRow:  # fmt: skip
    return AuditRow(
        identity, call.commands.domain.service, call.name, None if actor is None else printable(str(actor), 500), call.idempotency_key,
        data, outcome, error_type, message, started_at, round((perf_counter() - started) * 1000),
    )  # fmt: skip


def _write(call: Call, connection: Any, row: AuditRow) -> None:
    store = call.commands.store
    store.resolve(connection)
    store.commands.audit(connection, row)


async def _alone(call: Call, row: AuditRow) -> None:
    """Write in a transaction of its own. What the command has raised matters more than that this failed."""
    store = call.commands.store
    try:
        # Whoever ends the transaction around a nested command may await although the command could not.
        if call.blocking and (can_await() or not store.connections.asynchronous):
            with store.connections.sync_engine.begin() as connection:
                _write(call, connection, row)
        else:
            await store.transact(lambda connection: _write(call, connection, row))
    except Exception:
        logger.exception("the execution of %s (%s) could not be written down", row.command, row.outcome)


def described(command: Any, redact: Collection[str]) -> str:
    """Return a command's fields as JSON, without what is secret; what is no JSON is written as Python would print it."""
    found = _visible(command, redact)
    return msgspec.json.encode(found, enc_hook=_printed).decode("utf-8", "replace")


def _visible(value: Any, redact: Collection[str]) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _HIDDEN if str(key) in redact else _visible(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_visible(item, redact) for item in value]
    names = _fields(value)
    if names is None:
        return value
    hidden = {*redact, *_secret(type(value))}
    return {name: _HIDDEN if name in hidden else _visible(getattr(value, name, None), redact) for name in names}


def _fields(value: Any) -> list[str] | None:
    kind: Any = type(value)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    for attribute in ("__struct_fields__", "model_fields"):
        found = getattr(kind, attribute, None)
        if found is not None:
            return list(found)
    attrs = getattr(kind, "__attrs_attrs__", None)
    if attrs is not None:
        return [each.name for each in attrs]
    if kind.__module__ == "builtins" or not hasattr(value, "__dict__") or hasattr(kind, "hex"):
        return None
    return [name for name in vars(value) if not name.startswith("_")]


def _secret(kind: type[Any]) -> list[str]:
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation may raise anything; then the classes' own annotations have to do, unread
        return [name for base in kind.__mro__ for name, hint in vars(base).get("__annotations__", {}).items() if "Secret" in str(hint)]
    return [
        name
        for name, hint in hints.items()
        if any(
            each is Secret or isinstance(each, Secret)
            for part in (hint, *typing.get_args(hint))
            for each in getattr(part, "__metadata__", ())
        )
    ]


def _printed(value: Any) -> Any:
    try:
        return plain(value)
    except TypeError:
        return printable(repr(value), 500)
