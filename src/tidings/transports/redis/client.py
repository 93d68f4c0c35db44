"""Redis's client, loaded when it is used."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidings.errors import MissingExtra

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client


__all__ = ["close_client", "load_redis", "packer"]


async def close_client(client: Client) -> None:
    """Close it, in seconds at most, whatever state it is in."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await client.aclose()


def load_redis() -> Any:
    """Return the client library; MissingExtra without it."""
    try:
        import_module("redis.asyncio")
        return import_module("redis")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.redis", "redis") from error


def packer() -> Callable[[tuple[Any, ...]], bytes]:
    """Return what writes a command as the protocol has it."""
    try:
        pack: Callable[[tuple[Any, ...]], bytes] = import_module("hiredis").pack_command
    except (ModuleNotFoundError, AttributeError):
        plain = load_redis().asyncio.Connection()

        def packed(command: tuple[Any, ...]) -> bytes:
            return b"".join(plain.pack_command(*command))

        return packed
    return pack
