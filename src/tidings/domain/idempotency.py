"""A command under a key has its effect once: whoever comes again with the key gets the stored result."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

import msgspec

from tidings.domain.commands import Call, Proceed
from tidings.domain.results import Err, Ok
from tidings.domain.unit_of_work import current_work
from tidings.errors import ConfigurationError, IdempotencyConflict

__all__ = ["Idempotency"]


class _Stored(msgspec.Struct):
    kind: Literal["value", "ok", "err"]
    value: msgspec.Raw


class Idempotency:
    """Stores the result of a command that has an idempotency key, in its transaction, as JSON; after `Transactional()` in the list.

    The second call with the key waits for the first, and gets its result as the handler's return annotation says, else as plain JSON values. If the
    first was rolled back, the second is executed. Keys are kept as long as the inbox.

    Raises:
        IdempotencyConflict: the key belongs to another command, or to one with other values.
        ConfigurationError: command or result cannot be written as JSON, or there is no transaction.
    """

    keeps_keys = True

    async def __call__(self, call: Call, proceed: Proceed) -> Any:
        key = call.idempotency_key
        if key is None:
            return await proceed()
        commands = call.commands
        work = current_work(commands.domain)
        if work is None:
            raise ConfigurationError("Idempotency() needs a transaction: put it after Transactional() in Service(behaviours=[...])")
        store, service = commands.store, commands.domain.service
        fingerprint = _fingerprint(call)

        def claim(session: Any) -> Any:
            connection = session.connection()
            store.resolve(connection)
            return store.commands.claim(connection, service, key, call.name, fingerprint)

        known = await work.run(claim, blocking=call.blocking)
        if known is None:
            result = await proceed()
            if not isinstance(result, Err) or call.commits_on_err:
                stored = _written(call, result)
                await work.run(lambda session: store.commands.keep(session.connection(), service, key, stored), blocking=call.blocking)
            return result
        if known.fingerprint != fingerprint:
            what = f"the command {known.command}" if known.command != call.name else f"a {call.name} with other values"
            raise IdempotencyConflict(
                f"the idempotency key {key!r} was used for {what}: nothing was done. Give each command a key of its own, and the same only when "
                "it is tried again as it is"
            )
        call.repeated = True
        if known.result is None:
            raise IdempotencyConflict(f"the command with the idempotency key {key!r} is being executed in this very transaction")
        return _read(call, known.result)


def _fingerprint(call: Call) -> str:
    try:
        data = msgspec.json.encode(call.command, enc_hook=plain, order="deterministic")
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{call.name} has an idempotency key and cannot be compared, because it is not JSON: {error}") from error
    return blake2b(call.name.encode() + b"\0" + data, digest_size=16).hexdigest()


def _written(call: Call, result: Any) -> str:
    kind: Literal["value", "ok", "err"] = "ok" if isinstance(result, Ok) else "err" if isinstance(result, Err) else "value"
    value = result.value if isinstance(result, Ok) else result.error if isinstance(result, Err) else result
    try:
        raw = msgspec.Raw(msgspec.json.encode(value, enc_hook=plain))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"{call.handler} returned something that cannot be kept for its idempotency key, because it is not JSON: {error}. Return ids and values"
        ) from error
    return msgspec.json.encode(_Stored(kind, raw)).decode()


def _read(call: Call, text: str) -> Any:
    stored = msgspec.json.decode(text, type=_Stored)
    hint = Any if stored.kind == "err" or call.entry.value_hint is None else call.entry.value_hint
    try:
        value = msgspec.json.decode(stored.value, type=hint, dec_hook=_made)
    except (TypeError, ValueError, msgspec.MsgspecError):
        value = msgspec.json.decode(stored.value)  # the annotation has changed, or is nothing that can be made from JSON
    return Ok(value) if stored.kind == "ok" else Err(value) if stored.kind == "err" else value


def plain(value: Any) -> Any:
    """Return what JSON can be made of: for pydantic models."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"objects of type {type(value).__qualname__}")
    return dump(mode="json")


def _made(kind: type[Any], value: Any) -> Any:
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise TypeError(f"objects of type {kind.__qualname__}")
    return validate(value)
