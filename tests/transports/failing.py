"""Ways to let a broker fail: a proxy that cuts its connections, and a private broker that is killed."""

from __future__ import annotations

import asyncio

from private_services import cli
from private_services.control import Control
from private_services.proxy import Proxy

__all__ = ["Crash", "Proxy"]


class Crash:
    """Kills a private broker that no other test uses, and starts it again with its data."""

    def __init__(self, control: Control, name: str) -> None:
        self._control = control
        self._service = cli.SERVICES[name]

    async def stop(self) -> None:
        await asyncio.to_thread(self._control.crash, self._service)

    async def start(self) -> None:
        await asyncio.to_thread(self._control.revive, self._service)
