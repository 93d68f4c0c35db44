"""`tidings dashboard`: the dashboard alone, beside the services, on nothing but their store."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from tidings.cli.command import Command, Failed, Misused
from tidings.cli.loop import stop_on_signals
from tidings.cli.store import Target, on_service, store_options

if TYPE_CHECKING:
    from tidings.dashboard import Auth
    from tidings.service import Service
    from tidings.stores import SQLStore

__all__ = ["dashboard"]


@click.command(
    cls=Command,
    examples=(
        ("tidings dashboard --store postgresql://shop@localhost/shop", "prints its address; only this machine can open it"),
        (
            "TIDINGS_DASHBOARD_TOKEN=... tidings dashboard --host 0.0.0.0 --port 8080",
            "for others, who log in with the token; put TLS before it",
        ),
        (
            "TIDINGS_DASHBOARD_PASSWORD_ADA=... tidings dashboard --host 0.0.0.0 --user ada:operator --secure-cookies",
            "with a name of one's own in the audit, behind a proxy that does TLS",
        ),
        ("tidings dashboard --service shop.app:service --read-only", "with the contracts of the service, and no actions"),
    ),
)
@store_options
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="0 takes a free one.")
@click.option("--read-only", is_flag=True, help="Nobody can act.")
@click.option("--token", metavar="TOKEN", envvar="TIDINGS_DASHBOARD_TOKEN", show_envvar=True, help="Who has it may look, and act.")
@click.option("--viewer-token", metavar="TOKEN", envvar="TIDINGS_DASHBOARD_VIEWER_TOKEN", show_envvar=True, help="Who has it may look.")
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME:ROLE",
    help="Instead of tokens: a user, viewer or operator, whose password is in TIDINGS_DASHBOARD_PASSWORD_NAME, or is asked for. Several times.",
)
@click.option("--secure-cookies", is_flag=True, help="Browsers send cookies over TLS only: for a proxy that does it.")
@click.option("--redact", "redact", multiple=True, metavar="FIELD", help="Do not show this field of payloads: name or path. Several times.")
@click.option(
    "--root-path", default="", metavar="PATH", help="The path under which a proxy offers it, which leaves that path out of what it asks."
)
def dashboard(
    target: Target, host: str, port: int, read_only: bool, token: str | None, viewer_token: str | None, users: tuple[str, ...],
    secure_cookies: bool, redact: tuple[str, ...], root_path: str,
) -> None:  # fmt: skip
    """Open the dashboard in a process of its own.

    It shows what is published, waiting, failing and blocked, and lets operators put it right. It needs the store, not the services' code.

    Without tokens and users only this machine can open it, by the address that is printed. A token in the environment is not seen in the list
    of processes. Tokens are given to a page to log in, or as 'Authorization: Bearer'; the browser asks users for name and password.
    """
    try:
        # With uvicorn, which only this needs.
        import_module("tidings.dashboard.serving")
        from tidings.errors import ConfigurationError
    except ImportError:
        raise Misused("the dashboard needs an optional package: pip install 'tidings[dashboard]'") from None
    if root_path and not root_path.startswith("/"):
        raise Misused(f"--root-path {root_path!r} is no path: begin it with a slash")
    try:
        auth = _auth_of_users(users, token or viewer_token) if users else _auth_of_tokens(token, viewer_token)
    except ConfigurationError as error:
        raise Misused(str(error)) from None
    if auth is None and not _is_loopback(host):
        raise Misused(f"--host {host} lets others in, and nothing says whom: give --token, or TIDINGS_DASHBOARD_TOKEN, or --user")

    async def work(store: SQLStore, service: Service | None) -> None:
        await _serve(
            store, service, host, port, auth=auth, read_only=read_only, redact=redact, secure_cookies=secure_cookies, root_path=root_path.rstrip("/")
        )  # fmt: skip

    on_service(target, work)


def _auth_of_tokens(token: str | None, viewer_token: str | None) -> Auth | None:
    from tidings.dashboard import TokenAuth, User

    if token is not None and token == viewer_token:
        raise Misused("--token and --viewer-token are the same: who has one would have both")
    users = {token: User("token", frozenset({"operator"})), viewer_token: User("viewer-token")}
    given = {name: user for name, user in users.items() if name is not None}
    return TokenAuth(given) if given else None


def _auth_of_users(given: tuple[str, ...], token: str | None) -> Auth:
    from tidings.dashboard import BasicAuth

    if token is not None:
        raise Misused("give tokens or users, not both: --user stands beside --token, --viewer-token or their environment variables")
    passwords: dict[str, str] = {}
    operators: set[str] = set()
    for user in given:
        name, _, role = user.rpartition(":")
        if not name or ":" in name or role not in ("viewer", "operator"):
            raise Misused(f"--user {user!r} is not NAME:viewer or NAME:operator")
        if name in passwords:
            raise Misused(f"--user {name!r} is given twice")
        passwords[name] = _password_of(name)
        if role == "operator":
            operators.add(name)
    return BasicAuth(passwords, operators)


def _password_of(name: str) -> str:
    variable = "TIDINGS_DASHBOARD_PASSWORD_" + re.sub(r"[^0-9A-Z]", "_", name.upper())
    found = os.environ.get(variable)
    if found:
        return found
    if not sys.stdin.isatty():
        raise Misused(f"there is no password for the user {name!r}: set {variable}")
    return str(click.prompt(f"Password of {name}", hide_input=True, confirmation_prompt=True, err=True))


async def _serve(store: SQLStore, service: Service | None, host: str, port: int, **options: Any) -> None:
    from tidings.dashboard import Dashboard
    from tidings.dashboard.serving import CannotListen, serving

    root_path = options.pop("root_path")
    stop = stop_on_signals()
    try:
        async with serving(Dashboard(store, service, **options), host, port, root_path) as address:
            proxied = f", for a proxy that offers it under {root_path}/ and leaves that out of what it asks" if root_path else ""
            click.echo(f"Dashboard at {address}{proxied}  (Ctrl-C ends it)")
            await stop.wait()
    except CannotListen as error:
        raise Failed(str(error)) from None
    except asyncio.CancelledError:
        raise click.Abort from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
