"""Ways to let a broker fail: a proxy that cuts its connections, and a private broker that is killed."""

from __future__ import annotations

import asyncio

from private_services import cli
from private_services.base import PrivateService
from private_services.control import Control
from private_services.proxy import Proxy
from private_services.redis import Redis

__all__ = ["Crash", "Proxy", "service_to_crash"]


def service_to_crash(name: str) -> PrivateService:
    """Return a broker whose confirmations outlive its process: with `everysec`, Redis confirms before it writes when the disk is slow."""
    return Redis(fsync="no") if name == "redis" else cli.SERVICES[name]


class Crash:
    """Kills a private broker that no other test uses, and starts it again with its data."""

    def __init__(self, control: Control, name: str) -> None:
        self._control = control
        self._service = service_to_crash(name)

    async def stop(self) -> None:
        await asyncio.to_thread(self._control.crash, self._service)

    async def start(self) -> None:
        await asyncio.to_thread(self._control.revive, self._service)
