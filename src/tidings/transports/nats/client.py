"""NATS's client, loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidings.errors import MissingExtra
from tidings.transports.closing import close_within

if TYPE_CHECKING:
    from nats.aio.client import Client

__all__ = ["close_client", "load_nats", "load_nkeys"]


async def close_client(client: Client) -> None:
    """Close it, in seconds at most, whatever state it is in."""
    await close_within(client.close(), "nats")


def load_nats() -> Any:
    """Return the client library; MissingExtra without it."""
    try:
        return import_module("nats")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.nats", "nats") from error


def load_nkeys() -> None:
    """Look for the package that proves who logs in; MissingExtra without it."""
    try:
        import_module("nkeys")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.nats with user_credentials or nkeys_seed", "nats") from error
