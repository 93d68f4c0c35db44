"""`tidings dashboard`: the dashboard alone, beside the services, on nothing but their store."""

from __future__ import annotations

import asyncio
from importlib import import_module
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import click

from tidings.cli.command import Command, Failed, Misused
from tidings.cli.loop import stop_on_signals
from tidings.cli.store import Target, on_store, store_options

if TYPE_CHECKING:
    from tidings.dashboard import Auth
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
        ("tidings dashboard --service shop.app:service --read-only", "with the contracts of the service, and no actions"),
    ),
)
@store_options
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="0 takes a free one.")
@click.option("--read-only", is_flag=True, help="Nobody can act.")
@click.option("--token", metavar="TOKEN", envvar="TIDINGS_DASHBOARD_TOKEN", show_envvar=True, help="Who has it may look, and act.")
@click.option("--redact", "redact", multiple=True, metavar="FIELD", help="Do not show this field of payloads: name or path. Several times.")
@click.option("--root-path", default="", metavar="PATH", help="The path under which a proxy offers it.")
def dashboard(target: Target, host: str, port: int, read_only: bool, token: str | None, redact: tuple[str, ...], root_path: str) -> None:
    """Open the dashboard in a process of its own.

    It shows what is published, waiting, failing and blocked, and lets operators put it right. It needs the store, not the services' code.

    Without a token only this machine can open it, by the address that is printed. A token in the environment is not seen in the list of
    processes.
    """
    try:
        # With uvicorn, which only this needs.
        import_module("tidings.dashboard.serving")
        from tidings.dashboard import TokenAuth
        from tidings.errors import ConfigurationError
    except ImportError:
        raise Misused("the dashboard needs an optional package: pip install 'tidings[dashboard]'") from None
    if token is None and not _is_loopback(host):
        raise Misused(f"--host {host} lets others in, and nothing says whom: give --token, or TIDINGS_DASHBOARD_TOKEN")
    try:
        auth = None if token is None else TokenAuth(token)
    except ConfigurationError as error:
        raise Misused(str(error)) from None

    async def work(store: SQLStore) -> None:
        await _serve(store, auth, host, port, read_only=read_only, redact=redact, root_path=root_path)

    on_store(target, work)


async def _serve(store: SQLStore, auth: Auth | None, host: str, port: int, **options: Any) -> None:
    from tidings.dashboard import Dashboard
    from tidings.dashboard.serving import CannotListen, serving

    root_path = options.pop("root_path")
    stop = stop_on_signals()
    try:
        async with serving(Dashboard(store, auth=auth, **options), host, port, root_path) as address:
            click.echo(f"Dashboard at {address}  (Ctrl-C ends it)")
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
