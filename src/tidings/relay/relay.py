"""The relay of one transport: reads its service's part of the log under a lease, sends it, and moves the checkpoint over what was confirmed.

What can go wrong is of two kinds. The channel fails: what is in memory is thrown away, and when there is a connection again, reading begins at
the checkpoint; a message of which connections break is found out (`suspicion`) and is then as good as refused. A message is refused: it is parked as a delivery of the relay, and so is what comes behind it with its key, until it gets
through or somebody decides; everything else flows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tidings.clock import elapsed
from tidings.consume.counters import Counters
from tidings.consume.execution import Failed
from tidings.consume.reach import Reach, unless_stopped
from tidings.consume.routing import Compiled
from tidings.consume.tenure import Tenure, bounded, cause_of, hold
from tidings.consume.tuning import Tuning
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.publish.publisher import Publisher
from tidings.relay.encoding import Encoder
from tidings.relay.line import ChannelLost, Line
from tidings.relay.routing import Routing, relay_name
from tidings.relay.session import Session
from tidings.relay.suspicion import Suspicion
from tidings.stores.sql.registry import reader_name
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Provision, Transport
from tidings.transports.base import Publisher as Channel

__all__ = ["Relay"]

logger = logging.getLogger("tidings.relay")


class Relay:
    """One transport of a service. Acquires the lease of its reader, connects, and sends until one of the two is lost, or it is stopped."""

    def __init__(
        self, service: str, transport: Transport, compiled: Compiled, routing: Routing, store: SQLStore, publisher: Publisher, worker: str,
        counters: Counters, died: Callable[[Compiled, Failed], None], tuning: Tuning, provision: Provision = "create", *, provisioned: bool = False,
        groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.transport = transport
        self.compiled = compiled
        self.reader = reader_name(service, relay_name(transport))
        self._service = service
        self._routing = routing
        self._encoder = Encoder(service, routing, transport)
        self._store = store
        self._publisher = publisher
        self._worker = worker
        self._counters = counters
        self._died = died
        self._tuning = tuning
        self._provision: Provision = provision
        self._provisioned = provisioned
        #: Those of this service, made before anything is sent: what nobody is there for would be refused.
        self._groups = groups
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self.reach = Reach(compiled, transport.name, store, worker, tuning, self._stopping, logger)
        self._session: Session | None = None

    def wake(self) -> None:
        """Look at the log now: something was committed."""
        self._wake.set()

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is under way is settled."""
        self._stopping.set()
        self._wake.set()
        if self._session is not None:
            self._session.stop()

    @property
    def idle(self) -> bool:
        """Whether it is connected, and everything that it has read is confirmed or parked."""
        return self._session is not None and len(self._session.tenure.progress) == 0

    async def run(self) -> None:
        """Relay under the lease whenever it can be had, until stopped."""
        await hold(self.reader, self._store, self._worker, self._tuning, self._stopping, self._act)

    async def _act(self, tenure: Tenure) -> None:
        """Relay under one lease."""
        reach = self.reach
        suspicion = Suspicion()
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(tenure.keep())
                await reach.begin(tenure.lease)
                while not (self._stopping.is_set() or reach.hopeless):
                    await self._connected(tenure, suspicion)
                keeping.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        except asyncio.CancelledError:
            await bounded(tenure.leave())
            raise
        finally:
            reach.over()
        await tenure.leave()
        if reach.hopeless:
            await reach.stand_back()

    async def _connected(self, tenure: Tenure, suspicion: Suspicion) -> None:
        """Connect and send, until that fails; then wait before the next time."""
        try:
            channel = await unless_stopped(self._connect(), self._stopping)
        except (TransportDown, ProvisionError, ConfigurationError) as error:
            # The last: a file with a certificate is gone, say, which was there when the service started.
            await self.reach.failed(tenure.lease, error)
            return
        if channel is None:
            return
        began = elapsed()
        line = Line(channel, suspicion)
        lost: ChannelLost | None = None
        try:
            # A lease just proved, and a checkpoint behind which nothing was sent by somebody else: overlaps are harmless.
            await tenure.renew()
            await self.reach.connected(tenure.lease)
            self._session = session = Session(self, tenure, line)
            if self._stopping.is_set():
                return
            await session.run()
        except ChannelLost as error:
            line.blame()
            lost = error
        finally:
            self._session = None
            await bounded(channel.close())
        if lost is not None:
            if elapsed() - began > self._tuning.lease:
                self.reach.worked()
            await self.reach.failed(tenure.lease, lost)

    async def _connect(self) -> Channel:
        if not self._provisioned:
            await self.transport.provision(self._routing.topics(self.transport), self._groups, self._provision)
            self._provisioned = True
        return await self.transport.publisher()
