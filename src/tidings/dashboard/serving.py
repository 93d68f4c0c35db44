"""Serving the dashboard by itself, with uvicorn, for as long as a block lasts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from tidings.consume.tenure import cause_of
from tidings.dashboard.app import Dashboard

__all__ = ["CannotListen", "serving"]

#: Seconds that an answer under way may take when the server stops; streams of open pages end then.
_GRACE = 1


class CannotListen(Exception):
    """The address cannot be used; says why."""


class _Server(uvicorn.Server):
    """A server that leaves the signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def serving(dashboard: Dashboard, host: str, port: int, root_path: str = "") -> AsyncIterator[str]:
    """Serve the dashboard in this event loop; gives its address.

    Args:
        port: 0 takes a free one.
        root_path: under which a proxy offers it. The proxy asks without it; opened at the address itself, links would lead nowhere.

    Raises:
        CannotListen: somebody else listens there, or there is no such address.
    """
    listening = _listening(host, port)
    # Headers of a proxy are not believed: who comes through one has to say who he is.
    config = uvicorn.Config(
        dashboard, log_level="warning", access_log=False, proxy_headers=False, server_header=False, lifespan="off", root_path=root_path,
        timeout_graceful_shutdown=_GRACE, ws="none",
    )  # fmt: skip
    server = _Server(config)
    shown = f"[{host}]" if ":" in host else host
    try:
        # A server that fails ends the block.
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.serve([listening]))
            try:
                yield f"http://{shown}:{listening.getsockname()[1]}/"
            finally:
                dashboard.close()
                server.should_exit = True
                # Or what the block raises would have the group cancel it while it answers.
                await asyncio.wait([running])
    except BaseExceptionGroup as group:
        # What the block raises comes out of it as it is.
        raise cause_of(group) from None


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        # From here on connections wait until the server takes them.
        made.listen(128)
    except (OSError, OverflowError) as error:
        raise CannotListen(
            f"cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}. Another port: --port 0 takes a free one"
        ) from None
    made.setblocking(False)
    return made
