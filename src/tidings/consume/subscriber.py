"""One group on one broker: connects, receives as long as the connection lasts, and comes back with patience.

There are two ways. Where the broker divides the messages of a group among its receivers (RabbitMQ, Kafka, groups without order on NATS and Redis),
every process receives, and what proves in the end of a transaction that it is still ours is the inbox row that went in first. Where a topic is a
log (ordered groups on NATS and Redis), one process reads, under a lease of the store, from the position in our own checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import cast

import msgspec

from tidings.clock import elapsed
from tidings.consume.consuming import Session
from tidings.consume.crew import Means
from tidings.consume.execution import StoreDown
from tidings.consume.opening import Opener
from tidings.consume.parking import guarded, noticed
from tidings.consume.reach import Reach, unless_stopped
from tidings.consume.routing import Compiled
from tidings.consume.sources import Feed
from tidings.consume.tenure import Tenure, bounded, cause_of, hold, rest
from tidings.errors import ConfigurationError, LeaseLost, ProvisionError, ReplicaError, TransportDown
from tidings.stores.base import Lease
from tidings.stores.sql.registry import inbound_reader
from tidings.transports.base import Log, Provision
from tidings.transports.base import Receiver as Channel

__all__ = ["Subscriber"]

logger = logging.getLogger("tidings.consume")

#: Seconds after which a process that goes on is not one that ends again and again.
_SETTLED = 10.0


class Subscriber:
    """Receives for a group from one broker until stopped.

    Args:
        feed: what it receives.
        inbound: the group's subscription for messages that nobody understands.
        opener: reads the messages.
        most: bytes of a message that are kept whole when nobody understands it.
        start: where a group begins that reads by position and is new.
        provision: whether to make, or to look for, what is missing at the broker; `provisioned`: it has been done.
    """

    def __init__(
        self, feed: Feed, inbound: Compiled, opener: Opener, means: Means, most: int, start: str = "earliest",
        provision: Provision = "create", *, provisioned: bool = False,
    ) -> None:  # fmt: skip
        self.feed = feed
        self.inbound = inbound
        self.reader = inbound_reader(means.service, feed.group, feed.transport.name)
        self._opener = opener
        self._means = means
        self._most = most
        self._start = start
        self._provision: Provision = provision
        self._provisioned = provisioned
        self._executions = [means.execution(compiled, means.store, means.publisher) for compiled in feed.subscriptions]
        self._retrier = means.retrier(feed.subscriptions)
        self._stopping = asyncio.Event()
        self.reach = Reach(inbound, feed.transport.name, means.store, means.worker, means.tuning, self._stopping, logger)
        #: Whether those that have crashed lately make this process careful. Not when it has gone on since: beside others it would take them for
        #: crashed that could not reach the store for a while, as it could not itself.
        self._wary = True
        self.session: Session | None = None

    def stop(self) -> None:
        """Receive nothing more; `run` returns when what is under way is finished."""
        self._stopping.set()
        self._retrier.stop()
        if self.session is not None:
            self.session.stop()

    @property
    def idle(self) -> bool:
        """Whether it is connected, and everything that it has received is finished."""
        return self.session is not None and self.session.idle

    async def run(self) -> None:
        """Receive until stopped, whatever happens to the broker and to the store."""
        means = self._means
        if self.feed.by_position:
            await hold(self.reader, means.store, means.worker, means.tuning, self._stopping, self._read)
            return
        delay = 0.1
        while not self._stopping.is_set():
            try:
                lease = await guarded(means.store.call(means.store.sharing.join, self.reader, means.worker, means.tuning.lease))
                means.store.outages.over(self.reader)
                delay = 0.1
                if lease is None:
                    await rest(means.tuning.lease, self._stopping)
                    continue
                await self._share(lease)
            except LeaseLost as error:
                logger.info("%s: %s", self.reader, error, extra={"reader": self.reader})
            except (StoreDown, ReplicaError) as error:
                noticed(means.store, self.reader, error, reader=self.reader)
                await rest(delay, self._stopping)
                delay = min(delay * 2, 5.0)
            except Exception:
                # A mistake of ours, or tables that were changed under us: nothing is acknowledged, so all of it comes again.
                logger.exception("%s: receiving stopped; trying again in %.1f s", self.reader, delay, extra={"reader": self.reader})
                await rest(delay, self._stopping)
                delay = min(delay * 2, 30.0)

    async def _share(self, lease: Lease) -> None:
        """Receive beside others, until the group's subscriptions change."""
        try:
            async with asyncio.TaskGroup() as tasks:
                staying = tasks.create_task(self._stay(lease))
                await self.reach.begin(lease)
                while not self._stopping.is_set():
                    await self._connected(lease, None)
                staying.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        finally:
            self.reach.over()
            await bounded(self._leave(lease))

    async def _leave(self, lease: Lease) -> None:
        """What ends in good order was no crash."""
        store = self._means.store
        try:
            await guarded(store.call(store.sharing.leave, lease, self._means.worker))
        except StoreDown as error:
            logger.info("could not say that receiving has ended: %s", error)

    async def _stay(self, lease: Lease) -> None:
        """Let everybody see that somebody reads, and notice when the group's subscriptions have changed."""
        store, tuning = self._means.store, self._means.tuning
        while True:
            await asyncio.sleep(tuning.lease / 3)
            if not await guarded(store.call(store.sharing.stay, lease, self._means.worker, tuning.lease)):
                raise LeaseLost("the subscriptions of the group have changed, or it is retired")

    async def _read(self, tenure: Tenure) -> None:
        """Read by position under one lease."""
        reach = self.reach
        self._wary = True
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(tenure.keep())
                await reach.begin(tenure.lease)
                while not (self._stopping.is_set() or reach.hopeless):
                    await self._connected(tenure.lease, tenure)
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

    async def _connected(self, lease: Lease, tenure: Tenure | None) -> None:
        """Connect and receive, until that fails; then wait before the next time."""
        try:
            channel = await unless_stopped(self._connect(tenure), self._stopping)
        except (TransportDown, ProvisionError, ConfigurationError) as error:
            # The last: a file with a certificate is gone, say, which was there when the service started.
            await self.reach.failed(lease, error)
            return
        if channel is None:
            return
        means = self._means
        began = elapsed()
        try:
            if tenure is not None:
                await tenure.renew()
            await self.reach.connected(lease)
            registered = await guarded(means.store.call(means.store.registry.list, means.service))
            if not self._wary:
                lease = lease._replace(restarts=1)
            self.session = session = Session(
                self.feed, self.inbound, self._opener, means, self._executions, self._retrier, lease, tenure, channel, registered, self._most,
                _SETTLED,
            )  # fmt: skip
            if self._stopping.is_set():
                return
            await session.run()
        except TransportDown as error:
            if self.session is not None and (self.session.received or elapsed() - began > means.tuning.lease):
                self.reach.worked()
            await self.reach.failed(lease, error)
        finally:
            if self.session is not None:
                self._wary = self.session.careful
            self.session = None
            await bounded(channel.close())

    async def _connect(self, tenure: Tenure | None) -> Channel:
        feed, transport = self.feed, self.feed.transport
        if not self._provisioned:
            groups = {} if feed.by_position else {feed.group: feed.topics}
            await transport.provision(feed.topics, groups, self._provision)
            self._provisioned = True
        if tenure is None:
            return await transport.receiver(feed.group, feed.topics)
        log = cast("Log", transport)
        mark = tenure.again()
        if not mark.place and self._start == "now":
            # Written down before anything is read: who comes after us must not begin later.
            end = await log.end(feed.topics)
            tenure.progress.reach(msgspec.structs.replace(mark, place=json.dumps(end)))
            await tenure.save()
        positions = _positions(tenure.progress.mark.place)
        return await log.reader({topic: positions.get(topic, "") for topic in feed.topics})


def _positions(place: str | None) -> dict[str, str]:
    found: dict[str, str] = json.loads(place) if place else {}
    return found


def unordered_warning(feeds: Sequence[Feed]) -> None:
    """Say at start which subscriptions want order and do not get it."""
    for feed in feeds:
        if feed.unordered:
            logger.warning(
                "%s keeps no order for its groups: events of a key may be handled out of order by %s. Say ordered=False there if that is meant",
                feed.transport.name, ", ".join(feed.unordered), extra={"transport": feed.transport.name},
            )  # fmt: skip
