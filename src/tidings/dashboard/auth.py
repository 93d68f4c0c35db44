"""Who may look and who may act: users with roles, built-in tokens and passwords, and nobody but this machine without them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from starlette.requests import Request

from tidings.errors import ConfigurationError

__all__ = ["Auth", "BasicAuth", "TokenAuth", "User", "is_local", "user_of"]

#: The roles that there are; an operator may do what a viewer may.
ROLES = frozenset({"viewer", "operator"})

#: The cookie of a session, and how many seconds it lasts.
COOKIE = "tidings_session"
SESSION = 12 * 3600

#: What says that a proxy stands between: then the address of the client is the proxy's.
_FORWARDED = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
    "via",
    "true-client-ip",
)
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class User:
    """Who asks.

    Args:
        name: stands in the audit.
        roles: `viewer` may look, `operator` may look and act.
    """

    name: str
    roles: frozenset[str] | set[str] = field(default=frozenset({"viewer"}))

    def may(self, role: str) -> bool:
        """Return whether the user has a role, or one that includes it."""
        return role in self.roles or (role == "viewer" and "operator" in self.roles)


Auth = Callable[[Request], "User | Awaitable[User | None] | None"]


class TokenAuth:
    """Users by token: `Authorization: Bearer …` for programs, a page to log in with it for people.

    Args:
        tokens: one token, whose user is an operator; or users by token.

    Raises:
        ConfigurationError: no token, one of fewer than 16 characters, or something else than users by token.
    """

    def __init__(self, tokens: str | Mapping[str, User]) -> None:
        users = {tokens: User("token", frozenset({"operator"}))} if isinstance(tokens, str) else tokens
        if not isinstance(users, Mapping) or not all(isinstance(token, str) and isinstance(user, User) for token, user in users.items()):
            raise ConfigurationError("TokenAuth wants one token, or users by token: {token: User('ada', {'operator'})}")
        if not users or any(len(token) < 16 for token in users):
            raise ConfigurationError(
                "TokenAuth wants tokens of 16 characters or more: python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        self._users = {token.encode(): user for token, user in users.items()}

    def __call__(self, request: Request) -> User | None:
        """Return the user of the request's token, or of its session."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.user(given.strip())
        return self._of_session(request.cookies.get(COOKIE, ""))

    def user(self, given: str) -> User | None:
        """Return the user of a token; every token is compared, in constant time."""
        return next((user for token, user in self._matching(given.encode("utf-8", "replace"))), None)

    def session(self, given: str) -> str:
        """Return the value of a session's cookie for a token: when it ends, signed with the token. No process has to remember it."""
        until = str(int(time.time()) + SESSION)
        return f"{until}.{_signed(given.encode('utf-8', 'replace'), until)}"

    def _matching(self, given: bytes) -> list[tuple[bytes, User]]:
        return [(token, user) for token, user in self._users.items() if hmac.compare_digest(token, given)]

    def _of_session(self, cookie: str) -> User | None:
        until, _, signature = cookie.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or int(until) < time.time():
            return None
        given = signature.encode("utf-8", "replace")
        found = [user for token, user in self._users.items() if hmac.compare_digest(_signed(token, until).encode(), given)]
        return found[0] if found else None


class BasicAuth:
    """Users by name and password, which the browser asks for (HTTP Basic). Only behind TLS, or on a network that nobody else hears.

    Args:
        passwords: by user's name.
        operators: the names of those who may act; all others may look.
        realm: what the browser shows.
    """

    def __init__(self, passwords: Mapping[str, str], operators: frozenset[str] | set[str] = frozenset(), realm: str = "Tidings") -> None:
        if not passwords or not all(passwords.values()):
            raise ConfigurationError("BasicAuth wants passwords by user's name, none of them empty")
        if unknown := sorted(set(operators) - set(passwords)):
            raise ConfigurationError(f"BasicAuth: there is no password for the operators {', '.join(unknown)}")
        self._passwords = dict(passwords)
        self._operators = frozenset(operators)
        #: What an answer 401 asks for.
        self.challenge = f'Basic realm="{realm}", charset="UTF-8"'

    def __call__(self, request: Request) -> User | None:
        """Return the user whose name and password the request has."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
        except ValueError:
            return None
        # A name that does not exist takes as long as one that does.
        expected = self._passwords.get(name, "")
        right = hmac.compare_digest(_digest(expected), _digest(password)) and colon == ":" and name in self._passwords
        if not right:
            return None
        return User(name, frozenset({"operator" if name in self._operators else "viewer"}))


def is_local(request: Request) -> bool:
    """Return whether a request comes from this machine, and nobody stands between.

    The address must be a loopback one, and the Host as well: else a page of somebody else's, whose name has been made to lead here, could
    read with the browser of who sits here. A proxy on this machine says that it is one by its headers.
    """
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        if not ip_address(request.client.host.partition("%")[0]).is_loopback:
            return False
    except ValueError:
        return False
    host = request.headers.get("host", "").lower()
    name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    return name in _LOCAL_HOSTS and port.isascii()


async def user_of(auth: Auth | None, request: Request) -> User | None:
    """Return who asks; without `auth`, an operator on this machine and nobody anywhere else.

    Raises:
        ConfigurationError: `auth` returned something else than a user, or one with unknown roles.
    """
    if auth is None:
        return User("local", frozenset({"operator"})) if is_local(request) else None
    found: Any = auth(request)
    if inspect.isawaitable(found):
        found = await found
    if found is None:
        return None
    if not isinstance(found, User) or not set(found.roles) <= ROLES:
        raise ConfigurationError(
            f"the dashboard's auth returned {found!r}: return User(name, roles={{'viewer'}}) or {{'operator'}}, or None"
        )
    return found


def _signed(token: bytes, until: str) -> str:
    return hmac.new(token, f"tidings dashboard session {until}".encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
