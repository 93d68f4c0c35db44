"""NATS's client, loaded when it is used."""

from __future__ import annotations

import asyncio
import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidings.errors import MissingExtra

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["close_client", "load_nats"]


async def close_client(client: Client) -> None:
    """Close it, in seconds at most, whatever state it is in."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await client.close()


def load_nats() -> Any:
    """Return the client library; MissingExtra without it."""
    try:
        return import_module("nats")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.nats", "nats") from error
