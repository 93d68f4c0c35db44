"""Making the state of circuit breakers known to everybody who looks into the store."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.consume.parking import guarded
from tidings.consume.routing import Compiled
from tidings.stores.base import Lease
from tidings.stores.sql.breakers import Told
from tidings.stores.sql.store import SQLStore

__all__ = ["Announcer"]


class Announcer:
    """Tells for one lease of a group's reader what its breakers are like, whenever that has changed. Nothing is written while all is well.

    Args:
        worker: whose breakers these are; what another worker left open begins half-open here.
    """

    def __init__(self, subscriptions: Sequence[Compiled], store: SQLStore, lease: Lease, worker: str) -> None:
        self._subscriptions = subscriptions
        self._store = store
        self._lease = lease
        self._worker = worker
        self._told: dict[int, tuple[str, str] | None] = {}

    async def inherit(self) -> None:
        """Find out what was told before this lease.

        Raises:
            StoreDown: the database cannot be used.
        """
        told = await guarded(self._store.call(self._store.breakers.told, [compiled.id for compiled in self._subscriptions]))
        for compiled in self._subscriptions:
            last = told.get(compiled.id)
            if last is None or last.state is None:
                self._told[compiled.id] = ("closed", "")
            elif last.owner == self._worker:
                self._told[compiled.id] = (last.state, last.reason)
            else:
                self._told[compiled.id] = None
                compiled.circuit.inherit(last.age, last.reason)

    async def tell(self) -> None:
        """Write down what has changed.

        Raises:
            StoreDown: the database cannot be used.
        """
        for compiled in self._subscriptions:
            view = compiled.circuit.view()
            now = (view.state, view.reason)
            if now == self._told.get(compiled.id):
                continue
            state = None if view.state == "closed" else view.state
            told = Told(state, view.age, view.reason, None if state is None else self._worker)
            await guarded(self._store.call(self._store.breakers.tell, self._lease, compiled.id, told))
            self._told[compiled.id] = now
