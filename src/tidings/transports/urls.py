"""Addresses of brokers, as they may be shown: without who connects, and with which password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tidings.errors import ConfigurationError

if TYPE_CHECKING:
    from tidings.transports.base import Transport

__all__ = ["address_of", "described", "unreadable"]

_WHO = re.compile(r"(?:(?<=://)|^)[^/]*@")
_UNREADABLE = "(an unreadable address)"


def unreadable(url: str) -> ConfigurationError:
    """Return the error for a URL that a client cannot read; raise it `from None`, as the client's own may show the password."""
    return ConfigurationError(f"{described(url)}: the URL cannot be read; check its scheme, host, port and parameters")


def described(url: str) -> str:
    """Return scheme, host and port of a URL, or of several that commas separate; never its user, password, path or parameters."""
    # Before the commas: a password may have some.
    return ",".join(_one(part.strip()) for part in _WHO.sub("", url).split(","))


def address_of(transport: Transport) -> str:
    """Return where a transport's broker is, as `described`; empty for a transport that has no `url`."""
    url = getattr(transport, "url", None)
    return described(url) if isinstance(url, str) else ""


def _one(url: str) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _UNREADABLE
    if "@" in parts.path:
        # A slash in a password ends the address too early.
        return _UNREADABLE
    host = f"[{host}]" if ":" in host else host
    return f"{f'{parts.scheme}://' if parts.scheme else ''}{host}{f':{port}' if port else ''}"
