"""What can be wrong with the settings of a transport, found when it is made: each error names the value, unless it may be secret, and the remedy.

Files are looked for when somebody connects: a transport may be made where they are not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, urlsplit

from tidings.errors import ConfigurationError
from tidings.transports.urls import described, unreadable

__all__ = ["check_files", "check_name", "check_reserved", "check_seconds", "check_servers", "check_url", "check_whole", "parameters"]

# Characters of a name: it is part of the names of relays and subscriptions in the store.
_LONGEST_NAME = 100


def check_name(kind: str, name: object) -> None:
    """Refuse what logs and tables cannot call a transport."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or " " in name:
        raise ConfigurationError(f"{kind} name={name!r}: give 1 to {_LONGEST_NAME} printable characters without spaces, 'eu' say")


def check_whole(kind: str, what: str, value: int, least: int, most: int | None = None) -> None:
    """Refuse what is no whole number within these bounds."""
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ConfigurationError(f"{kind} {what}={value!r} is not a whole number from {least:,}{'' if most is None else f' to {most:,}'}")


def check_seconds(kind: str, what: str, value: float, *, zero: bool = False) -> None:
    """Refuse what is no time."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"{kind} {what}={value!r} is no number of seconds{' from' if zero else ' above'} 0")


def check_reserved(kind: str, what: str, given: Collection[str], reserved: Mapping[str, str]) -> None:
    """Refuse to be given what is set here; the reserved say what to do instead, or why not."""
    for name in given:
        if name in reserved:
            raise ConfigurationError(f"{kind} {what}: {name!r} is set by Tidings: {reserved[name]}")


def check_url(kind: str, url: object, schemes: Collection[str], *, bare: bool = False) -> None:
    """Refuse what cannot be the address of one server.

    Args:
        bare: whether the scheme may be left out.
    """
    text = _text(kind, url)
    scheme, separator, _ = text.partition("://")
    if not separator and not bare:
        raise ConfigurationError(f"{kind} {described(text)}: the URL has no scheme: give {_listed(schemes)}")
    if separator and scheme not in schemes:
        raise ConfigurationError(f"{kind} {described(text)}: the scheme of the URL is not {_listed(schemes)}")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ConfigurationError(f"{kind} {described(text)}: there is white space in the URL, or behind it: is it read from a file?")
    try:
        parts = urlsplit(text if separator else f"//{text}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise unreadable(text) from None
    if not host and scheme != "unix":
        raise ConfigurationError(f"{kind} {described(text)}: the URL names no host")


def check_servers(kind: str, url: object, schemes: Collection[str]) -> None:
    """Refuse what cannot be the addresses of one or more servers."""
    for part in _text(kind, url).split(","):
        check_url(kind, part.strip(), schemes, bare=True)


def check_files(url: str, files: Mapping[str, object]) -> None:
    """Refuse files that are not there, or that nobody may read."""
    for what, path in files.items():
        if isinstance(path, (str, os.PathLike)) and not os.access(path, os.R_OK):
            raise ConfigurationError(f"{described(url)}: {what}={str(path)!r} is not there, or cannot be read by this process")


def parameters(url: str) -> dict[str, str]:
    """Return the parameters of a URL that has been checked."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def _text(kind: str, url: object) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ConfigurationError(
            f"{kind} url is {'empty' if isinstance(url, str) else f'a {type(url).__name__}'}: give the broker's address as text"
        )
    return url


def _listed(schemes: Collection[str]) -> str:
    return " or ".join(f"{scheme}://" for scheme in schemes)
