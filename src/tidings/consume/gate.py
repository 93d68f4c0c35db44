"""Gates: what a process does to keep limits that hold over all processes.

A process takes permits and tokens from the store, a few at a time, and hands them out to its workers, who wait here *before* they take an
event: what waits is in the log, and is not slow. Permits are renewed while they are used, and run out with a process that dies; a process
that was paused finds that by its own clock, which goes on meanwhile, and asks anew. Without limits there is no gate.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from tidings.clock import elapsed
from tidings.consume.execution import StoreDown
from tidings.consume.limits import Limit, Taken, portion, share, take
from tidings.consume.parking import guarded, noticed
from tidings.stores.base import Claim, Verdict
from tidings.stores.sql.store import SQLStore

__all__ = ["Gate", "Gatekeeper"]

logger = logging.getLogger("tidings.consume")

#: Tokens that were taken are used within so many seconds, or are lost: a process that was paused must not come with old ones.
_FRESH = 1.0
#: Seconds between two questions for permits that others have.
_AGAIN = 0.3
#: Most seconds that a worker sleeps before it looks again.
_LONGEST = 5.0
#: How often permits are renewed within their lifetime.
_RENEWALS = 3


class _Scope:
    """One limit: of a subscription, or of a whole service."""

    def __init__(self, name: str, limit: Limit, store: SQLStore, worker: str, ttl: float) -> None:
        self.name = name
        self.limit = limit
        self._store = store
        self._worker = worker
        self._ttl = ttl
        self._held = 0
        self._until = 0.0
        self._claims = False
        self.used = 0
        self.waiting = 0
        self._most = 0
        self._tokens = 0
        self._tokens_until = 0.0
        self._asking = asyncio.Lock()
        self._changed = asyncio.Event()
        self.wait = 0.0
        self.contended = False

    @property
    def active(self) -> bool:
        """Whether there is anything to renew, or to give back: permits, or a claim to some that others still honour."""
        return self._claims

    def take(self, wanted: int) -> int:
        """Take a permit, and up to `wanted` tokens; return how many, 0 when there is not one of each."""
        now = elapsed()
        if self.limit.concurrency is not None and (self.used >= self._held or now >= self._until):
            return 0
        got = self.tokens(wanted)
        if got:
            self.used += 1
            self._most = max(self._most, self.used)
        return got

    def tokens(self, wanted: int) -> int:
        """Take up to `wanted` tokens of those that are here."""
        if self.limit.rate is None:
            return wanted
        if elapsed() >= self._tokens_until:
            self._tokens = 0
        got = min(wanted, self._tokens)
        self._tokens -= got
        return got

    def put_back(self, tokens: int) -> None:
        """Give back tokens that were not used."""
        if self.limit.rate is not None:
            self._tokens += tokens
        self._changed.set()

    def leave(self) -> None:
        """Give back a permit."""
        self.used -= 1
        self._changed.set()

    async def enter(self, wanted: int, *, patient: bool) -> int:
        """Wait for a permit and at least one of `wanted` tokens; return how many. Impatient, give 0 at once where there is none."""
        if not self._asking.locked() and (got := self.take(wanted)):
            return got
        self.waiting += 1
        try:
            # One of this process asks, the others wait for it, in turn.
            async with self._asking:
                while not (got := self.take(wanted)):
                    pause = await self._ask(wanted)
                    if (got := self.take(wanted)) or not patient:
                        break
                    self._changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(pause, _LONGEST) * random.uniform(1.0, 1.1)):
                            await self._changed.wait()
                return got
        finally:
            self.waiting -= 1

    async def _ask(self, wanted: int) -> float:
        """Ask the store for what is missing; return the seconds until it is worth asking again."""
        rate = self.limit.rate
        short = rate is not None and (self._tokens < 1 or elapsed() >= self._tokens_until)
        try:
            pause = await self.ask(max(wanted, portion(rate)) if rate is not None and short else 0)
        except StoreDown as error:
            self.noticed(error)
            return _FRESH
        self.wait = pause
        return pause

    def noticed(self, error: StoreDown) -> None:
        """Say that the permits could not be asked for."""
        noticed(self._store, f"limit {self.name}", error)

    async def ask(self, tokens: int, *, leaving: bool = False) -> float:
        """Renew the permits, ask for more, or give back what nobody here wants; ask for tokens. Return the seconds until there may be more.

        Raises:
            StoreDown: the database cannot be used.
        """
        asked = elapsed()
        limit = self.limit
        taken = Taken(0, 0.0, 0.0)
        mine: Claim | None = None
        wanted = 0 if leaving else max(self.used + self.waiting, self._most)
        contended = False

        def decide(ahead: float | None, others: list[Claim]) -> Verdict:
            nonlocal taken, mine, contended
            if limit.concurrency is not None:
                most = min(wanted, limit.concurrency)
                held = share(limit.concurrency, Claim(self._held, most), self.used, others)
                mine = Claim(held, most)
                contended = any(other.wanted > other.held for other in others)
            if limit.rate is not None and tokens:
                taken = take(limit.rate, ahead, tokens)
            return Verdict(mine, taken.ahead if taken.tokens else None)

        # Whoever is cancelled meanwhile does not learn whether it was written.
        self._claims = limit.concurrency is not None
        await guarded(self._store.transact(self._store.limits.ask, self.name, self._worker, self._ttl, decide))
        self._store.outages.over(f"limit {self.name}")
        self._most = self.used
        if mine is not None:
            self._held, self._until = mine.held, asked + self._ttl
            self._claims = mine.held + mine.wanted > 0
        self.contended = contended
        if taken.tokens:
            self._tokens = (self._tokens if asked < self._tokens_until else 0) + taken.tokens
            self._tokens_until = asked + _FRESH
        self._changed.set()
        return taken.wait or _AGAIN


class Gate:
    """What a subscription's workers pass before they take an event: its own limit, and the whole service's.

    Args:
        patient: whether `enter` waits; otherwise it gives 0, and `wait` says how many seconds it would have taken.
    """

    def __init__(self, scopes: Sequence[_Scope], *, patient: bool) -> None:
        self._scopes = scopes
        self._patient = patient
        #: Seconds until there is something to enter for, if the last one could not.
        self.wait: float | None = None

    async def enter(self, wanted: int = 1) -> int:
        """Wait until a handler may run; return for how many events of those wanted. Every one that is not 0 needs a `leave`."""
        self.wait = None
        while True:
            began = elapsed()
            got = await self._enter(wanted)
            if not got or elapsed() - began < _FRESH or len(self._scopes) == 1:
                return got
            # What was taken from the first limit is too old now that the others had room, too.
            self.leave(got)

    async def _enter(self, wanted: int) -> int:
        entered: list[_Scope] = []
        got = wanted
        try:
            for scope in self._scopes:
                before, got = got, await scope.enter(got, patient=self._patient)
                if not got:
                    self.wait = scope.wait
                    self._undo(entered, before)
                    return 0
                for earlier in entered:
                    earlier.put_back(before - got)
                entered.append(scope)
        except BaseException:
            self._undo(entered, got)
            raise
        return got

    def more(self, wanted: int) -> int:
        """Return for how many further events whoever has entered may go on at once, without waiting."""
        got = wanted
        taken: list[_Scope] = []
        for scope in self._scopes:
            before, got = got, scope.tokens(got)
            for earlier in taken:
                earlier.put_back(before - got)
            taken.append(scope)
        return got

    def put_back(self, unused: int) -> None:
        """Note how many of the events that could have been handled are not."""
        if unused:
            for scope in self._scopes:
                scope.put_back(unused)

    def leave(self, unused: int = 0) -> None:
        """Note that a handler has ended, and how many of the events that it could have handled it did not."""
        self.put_back(unused)
        for scope in self._scopes:
            scope.leave()

    def _undo(self, entered: Sequence[_Scope], tokens: int) -> None:
        for scope in entered:
            scope.leave()
            scope.put_back(tokens)


class Gatekeeper:
    """The gates of one process.

    Args:
        ttl: seconds that permits last without renewal: so long those of a dead process are missing.
        patient: see `Gate`.
    """

    def __init__(self, service: str, limit: Limit, store: SQLStore, worker: str, ttl: float, *, patient: bool = True) -> None:
        self._service = service
        self._store = store
        self._worker = worker
        self._ttl = ttl
        self._patient = patient
        self._all = [_Scope(service, limit, store, worker, ttl)] if limit else []
        self._scopes = list(self._all)

    @property
    def names(self) -> list[str]:
        """The limits that are kept here, as the store calls them."""
        return [scope.name for scope in self._scopes]

    def gate(self, label: str, limit: Limit) -> Gate | None:
        """Return the gate of a subscription (`group/name`); None when nothing limits it."""
        own = [_Scope(f"{self._service}/{label}", limit, self._store, self._worker, self._ttl)] if limit else []
        self._scopes += own
        scopes = [*own, *self._all]
        return Gate(scopes, patient=self._patient) if scopes else None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Renew permits, and give back those that nobody uses; in the end all of them."""
        keeper = asyncio.ensure_future(self._run())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
            await self._last()

    async def _run(self) -> None:
        if not any(scope.limit.concurrency is not None for scope in self._scopes):
            return
        renewed = elapsed()
        while True:
            await asyncio.sleep(min(1.0, self._ttl / _RENEWALS))
            due = elapsed() - renewed >= self._ttl / _RENEWALS
            if due:
                renewed = elapsed()
            for scope in self._scopes:
                # Where others wait, they need not do so for the whole time.
                if scope.active and (due or scope.contended):
                    try:
                        await scope.ask(0)
                    except StoreDown as error:
                        scope.noticed(error)
                    except Exception:
                        # Without renewal nothing begins any more when the permits have run out: that is noticed, and asked for anew.
                        logger.exception("limit %s: the permits could not be renewed", scope.name)

    async def _last(self) -> None:
        for scope in self._scopes:
            if scope.active:
                with suppress(StoreDown, TimeoutError):
                    async with asyncio.timeout(5.0):
                        await scope.ask(0, leaving=True)
