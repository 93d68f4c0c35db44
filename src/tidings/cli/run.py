"""`tidings run`: a service in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from tidings.cli.collector import settle
from tidings.cli.command import Command, Failed
from tidings.cli.loading import load_service
from tidings.cli.loop import run_loop, stop_on_signals
from tidings.cli.store import failed
from tidings.cli.text import safe
from tidings.cli.urls import masked
from tidings.cli.workers import run_workers

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["run"]

_ROLES = ("relay", "consume", "schedule")

logger = logging.getLogger("tidings.cli")


def _roles(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    roles = [role.strip() for role in value.split(",") if role.strip()]
    unknown = [role for role in roles if role not in _ROLES]
    if unknown or not roles:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'} is no role: there are {', '.join(_ROLES)}")
    return roles


@click.command(
    cls=Command,
    examples=(
        ("tidings run shop.app:service", "the Service `service` in the module shop/app.py below this directory"),
        ("tidings run shop.app:create_service", "or a function without parameters that returns one"),
        ("tidings run shop.app:service --workers 4", "four processes, each taking over when another dies"),
        ("tidings run shop.app:service --roles consume", "this process handles; another one moves what is scheduled"),
    ),
)
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option("--roles", metavar="LIST", callback=_roles, help="relay, consume, schedule; with commas. Without: those of the service.")
@click.option("--app-dir", default=".", metavar="DIR", show_default=True, help="Where to import from.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Run so many processes; one that dies is replaced."
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True, help="What is logged."
)
def run(target: str, roles: list[str] | None, app_dir: str, workers: int, log_level: str) -> None:
    """Run the handlers of a service until SIGTERM or SIGINT.

    The first signal stops taking events, and waits for handlers under way as long as the service's `grace` says; a second one rolls
    them back. Nothing is lost by either: what was not finished is handled by the next worker. Any number of processes can run the same
    service.
    """
    # A second signal cancels: that, too, is to be asked to end.
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        if workers == 1:
            run_loop(_run(target, roles, app_dir, log_level))
            return
        arguments = [target, "--app-dir", app_dir, "--log-level", log_level]
        if roles is not None:
            arguments += ["--roles", ",".join(roles)]
        code = run_loop(_run_workers(workers, arguments, log_level))
        if code:
            raise SystemExit(code)


async def _run_workers(count: int, arguments: list[str], log_level: str) -> int:
    _set_up_logging(log_level)
    return await run_workers(count, arguments, stop_on_signals())


async def _run(target: str, roles: list[str] | None, app_dir: str, log_level: str) -> None:
    service = await load_service(target, app_dir)
    _set_up_logging(log_level)
    stop = stop_on_signals()
    try:
        await _start(service, roles)
        settle()
        await _until_stopped(service, stop)
    finally:
        try:
            await service.stop()
        finally:
            with suppress(Exception):
                await _dispose(service)


async def _start(service: Service, roles: list[str] | None) -> None:
    try:
        await service.start(roles)  # type: ignore[arg-type]
    except Exception as error:
        if click.get_current_context().find_root().params.get("debug"):
            raise
        url = service.store.connections.sync_engine.url
        raise failed(error, masked(url), url.password) from error


async def _until_stopped(service: Service, stop: asyncio.Event) -> None:
    runtime = service._runtime
    assert runtime is not None
    assert runtime._main is not None
    asked = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait([asked, runtime._main], return_when=asyncio.FIRST_COMPLETED)
    if asked in done:
        logger.info("stopping: waiting up to %.0f s for handlers under way; another signal rolls them back", service.grace)
        return
    asked.cancel()
    raise Failed("the service ended by itself; its log says why")


async def _dispose(service: Service) -> None:
    from sqlalchemy.ext.asyncio import AsyncEngine

    engine = service.store.connections.engine
    if isinstance(engine, AsyncEngine):
        await engine.dispose()
    else:
        engine.dispose()


class _Formatter(logging.Formatter):
    """Makes tracebacks harmless for a terminal: the text of an exception may come from a payload."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return safe(super().formatException(ei), lines=True)


def _set_up_logging(level: str) -> None:
    """Log to the standard error, unless the application has set logging up itself."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    # Under systemd and in containers the line already has a time.
    time = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s "
    handler.setFormatter(_Formatter(f"{time}%(levelname)-7s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level.upper())
