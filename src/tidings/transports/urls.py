"""Addresses of brokers, as they may be shown: without who connects, and with which password."""

from __future__ import annotations

from urllib.parse import urlsplit

__all__ = ["described"]


def described(url: str) -> str:
    """Return scheme, host and port of a URL, or of several that commas separate; never its user, password, path or parameters."""
    return ",".join(_one(part.strip()) for part in url.split(","))


def _one(url: str) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(an unreadable address)"
    host = f"[{host}]" if ":" in host else host
    return f"{f'{parts.scheme}://' if parts.scheme else ''}{host}{f':{port}' if port else ''}"
