"""A broker of our own behind a proxy of our own, to kill and to cut off as often as we like. Its clients find it in one place all the time."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from private_services.base import PrivateService
from private_services.control import Control
from private_services.kafka import Kafka
from private_services.nats import NATS
from private_services.processes import LOOPBACK
from private_services.proxy import Proxy
from private_services.rabbitmq import RabbitMQ
from private_services.redis import Redis

__all__ = ["Broker", "running_broker"]


class Broker:
    """A running broker, its data, and the proxy through which everyone goes.

    Attributes:
        url: of the proxy.
    """

    def __init__(self, service: PrivateService, control: Control, direct: str, port: int) -> None:
        self._service = service
        self._control = control
        self._proxy = Proxy(direct, port)
        self._enough = asyncio.Event()
        #: One that takes the broker away, and one that disturbs the line, at a time.
        self._lasting: dict[str, asyncio.Task[None]] = {}
        self.url = self._proxy.url

    async def open(self) -> None:
        """Let clients in."""
        await self._proxy.start()

    async def close(self) -> None:
        """Throw everyone out."""
        for task in self._lasting.values():
            task.cancel()
        await asyncio.gather(*self._lasting.values(), return_exceptions=True)
        self._proxy.resume()
        await self._proxy.stop()

    def cut(self, part: float, chance: random.Random) -> int:
        """Cut so many of the connections; return how many."""
        return self._proxy.cut(lambda: chance.random() < part)

    def kill(self, seconds: float, *, gently: bool) -> bool:
        """Kill it, or let it end in order, and start it again after some time; False when it is away already."""

        async def gone() -> None:
            await asyncio.to_thread(self._control.crash, self._service, self._service.stop_signals if gently else ())
            await self._rest(seconds)
            await asyncio.to_thread(self._control.revive, self._service)

        return self._last("server", gone)

    def refuse(self, seconds: float) -> bool:
        """Cut all connections and refuse new ones for some time; False when the line is disturbed already."""

        async def refusing() -> None:
            await self._proxy.stop()
            await self._rest(seconds)
            await self._proxy.start()

        return self._last("line", refusing)

    def silence(self, seconds: float) -> bool:
        """Swallow what everyone says for some time, and then pass it on; False when the line is disturbed already."""

        async def silent() -> None:
            self._proxy.silence()
            await self._rest(seconds)
            self._proxy.resume()

        return self._last("line", silent)

    async def calm(self) -> None:
        """End what disturbs it, and wait until it is there again.

        Raises:
            FailedError: it does not come up.
        """
        self._enough.set()
        for task in self._lasting.values():
            await task

    def _last(self, what: str, disturb: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        if (before := self._lasting.get(what)) is not None:
            if not before.done():
                return False
            # Raises what went wrong with it.
            before.result()
        self._lasting[what] = asyncio.create_task(disturb())
        return True

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()


@contextmanager
def running_broker(name: str, directory: Path) -> Iterator[Broker]:
    """Give a new broker for the block; its log is in the directory.

    Raises:
        UnavailableError: it cannot be had on this machine.
        FailedError: it does not come up.
    """
    with socket.socket() as reserved:
        # Nobody else gets this port while the proxy refuses connections: not even as the local end of a connection.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((LOOPBACK, 0))
        port: int = reserved.getsockname()[1]
        services: dict[str, PrivateService] = {
            "rabbitmq": RabbitMQ(), "kafka": Kafka(advertised=port), "nats": NATS(), "redis": Redis(fsync="no"),
        }  # fmt: skip
        service, control = services[name], Control(directory, say=lambda _sentence: None)
        with control.use(service) as direct:
            yield Broker(service, control, direct, port)
