"""The domain events of one SQLAlchemy session: which transaction or savepoint each belongs to, and what becomes of it.

As with events that are published (`publish.session_buffer`), an event belongs to the innermost savepoint, which hands it on when it is
released and takes it with it when it is rolled back. Where the state goes back, the events that told of it are gone; where it stays, on an
object that the rollback has made transient again or that is not mapped, they return to the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from tidings.domain.aggregates import Waiting
from tidings.errors import ConfigurationError, NoTransaction, PublishError
from tidings.publish.session_buffer import SessionBuffer
from tidings.publish.sqlalchemy_state import connections_of, is_open, open_savepoints, rolled_back_savepoints

if TYPE_CHECKING:
    from tidings.domain.dispatch import Domain
    from tidings.domain.unit_of_work import Work

__all__ = ["DomainStage", "Recorded"]


class Recorded:
    """A domain event in a transaction.

    Attributes:
        aggregate: the mapped object that recorded it while it was new, whose rollback may leave it as it is; else None.
        home: where it goes back to; None when a rollback undoes what it tells of.
        savepoints: those of the connection that were open; rolling one back takes it with it.
        cause: the event whose handler recorded it.
        by: that handler, for messages.
    """

    __slots__ = ("aggregate", "by", "cause", "event", "home", "savepoints")

    def __init__(
        self,
        event: Any,
        aggregate: Any,
        home: Waiting | None,
        savepoints: tuple[str, ...],
        cause: Recorded | None = None,
        by: str = "",
    ) -> None:
        self.event = event
        self.aggregate = aggregate
        self.home = home
        self.savepoints = savepoints
        self.cause = cause
        self.by = by


class DomainStage:
    """What one session has recorded and not handled yet. Holds nothing of a transaction that has ended.

    Attributes:
        current: the event whose handler runs, and the handler.
        after: what to call once the root transaction has committed.
    """

    __slots__ = (
        "_committed",
        "_connections",
        "_domain",
        "_done",
        "_frames",
        "_pulled",
        "_released",
        "_root",
        "_tracked",
        "_trouble",
        "_works",
        "after",
        "current",
    )

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._root: SessionTransaction | None = None
        self._frames: dict[SessionTransaction, list[Recorded]] = {}
        self._released: set[SessionTransaction] = set()
        self._tracked: dict[SessionTransaction, list[Waiting]] = {}
        self._pulled: list[Any] = []
        #: Connections on which somebody had a savepoint open when an event was recorded.
        self._connections: set[Connection] = set()
        self._done: list[Recorded] = []
        self._committed = False
        #: Why an attempt to handle what was recorded failed.
        self._trouble: BaseException | None = None
        self._works: list[Work] = []
        self.current: tuple[Recorded, str] | None = None
        self.after: list[Callable[[], None]] = []

    @classmethod
    def of(cls, session: Session, domain: Domain) -> DomainStage:
        """Return the session's stage.

        Raises:
            ConfigurationError: another service's handlers hear what is recorded in this transaction.
        """
        buffer = SessionBuffer.of(session)
        stage = buffer.stage
        if isinstance(stage, cls):
            if stage._domain is domain:
                return stage
            if stage._root is not None and stage._root is session.get_transaction():
                raise ConfigurationError(
                    f"domain events of this transaction go to another service, {stage._domain.service!r}, and {domain.service!r} would not hear of "
                    "them: use a session for each of them, or record with the one whose session factory it is"
                )
        stage = buffer.stage = cls(domain)
        return stage

    @property
    def idle(self) -> bool:
        return not self._frames and not self._pulled and self._trouble is None

    def record(self, session: Session, event: Any, aggregate: Any = None, home: Waiting | None = None) -> None:
        """Give an event to the session's innermost transaction.

        Raises:
            NoTransaction: there is none, and none begins by itself, or it has failed or ended.
        """
        owner = self._owner(session)
        savepoints: tuple[str, ...] = ()
        for connection in connections_of(self._root or owner):
            if connection.get_nested_transaction() is not None:
                savepoints += open_savepoints(connection)
                self._connections.add(connection)
        cause, by = self.current or (None, "")
        recorded = Recorded(event, aggregate, home, savepoints, cause, by)
        frame = self._frames.get(owner)
        if frame is None:
            self._frames[owner] = [recorded]
        else:
            frame.append(recorded)

    def track(self, session: Session, found: list[Waiting]) -> None:
        """Take what these objects have recorded and will record until the transaction ends."""
        owner = self._owner(session)
        for waiting in found:
            if waiting.collect is not None:
                continue

            def collect(event: Any, waiting: Waiting = waiting) -> None:
                self.record(session, event, None, waiting)

            for event in waiting.pull():
                collect(event)
            waiting.collect = collect
            self._tracked.setdefault(owner, []).append(waiting)

    def pull_from(self, session: Session, aggregate: Any) -> None:
        """Ask an object of a kind unknown here for its events, before the root transaction commits."""
        self._owner(session)
        if not any(each is aggregate for each in self._pulled):
            self._pulled.append(aggregate)

    def take(self, session: Session) -> list[Recorded]:
        """Return what has been recorded since the last time and is still true, in order."""
        for aggregate in self._pulled:
            for event in aggregate.pull_events():
                self.record(session, event, None, None)
        frames, self._frames = self._frames, {}
        found = self._surviving([recorded for frame in frames.values() for recorded in frame])
        self._done += found
        return found

    def before_commit(self, session: Session) -> None:
        """Handle everything, until nothing new is recorded.

        Raises:
            PublishError: an earlier attempt failed, and the caller tries to commit what it has left behind.
        """
        if self._trouble is not None:
            raise PublishError(
                "domain events of this transaction could not be handled, so it cannot commit: roll it back"
            ) from self._trouble
        try:
            self._domain.handle(session, self)
        except BaseException as error:
            self._trouble = error
            raise
        self._pulled.clear()

    def watch(self, session: Session, work: Work) -> None:
        """Tell those who wait for the end of a piece of work how the root transaction has ended."""
        self._owner(session)
        self._works.append(work)

    def after_commit(self, session: Session) -> None:
        """Remember a released savepoint; after the root, that it has committed.

        Raises:
            PublishError: something was recorded in the middle of the commit, after the handlers had run.
        """
        nested = session.get_nested_transaction()
        if nested is not None:
            if nested in self._frames or nested in self._tracked:
                self._released.add(nested)
            return
        self._committed = True
        if any(self._frames.values()):
            raise PublishError("the session has committed, and domain events that were recorded in the middle of its commit are lost")

    def after_transaction_end(self, transaction: SessionTransaction) -> None:
        """Hand a released savepoint's events to its parent; give others back, or forget them."""
        if transaction is self._root:
            self._end()
            return
        frame = self._frames.pop(transaction, [])
        tracked = self._tracked.pop(transaction, [])
        if not frame and not tracked:
            return
        if transaction not in self._released:
            for waiting in tracked:
                waiting.collect = None
            _restore(frame, lambda home: home in tracked)
            return
        self._released.discard(transaction)
        parent = transaction.parent
        while parent is not None and not parent.nested and parent.parent is not None:
            parent = parent.parent  # a flush runs in a transaction of its own, which is no savepoint
        if parent is not None:
            if frame:
                self._frames.setdefault(parent, []).extend(frame)
            if tracked:
                self._tracked.setdefault(parent, []).extend(tracked)

    def _end(self) -> None:
        for tracked in self._tracked.values():
            for waiting in tracked:
                waiting.collect = None
        left = self._surviving([recorded for frame in self._frames.values() for recorded in frame])
        done, after, committed = self._done, self.after, self._committed
        works = self._works
        self._done, self.after, self._works, self._committed = [], [], [], False
        self._root = self.current = self._trouble = None
        for collection in (self._frames, self._tracked, self._released, self._pulled, self._connections):
            collection.clear()
        for work in works:
            work.end_here(committed)
        if not committed:
            _restore([*done, *left], lambda _: True)
            return
        for call in after:
            call()

    def _surviving(self, recorded: list[Recorded]) -> list[Recorded]:
        """Return the events that no savepoint of a connection has taken with it."""
        if not self._connections:
            return recorded
        gone = {name for connection in self._connections for name in rolled_back_savepoints(connection)}
        return [each for each in recorded if gone.isdisjoint(each.savepoints)]

    def _owner(self, session: Session) -> SessionTransaction:
        root = session.get_transaction()
        if root is None:
            if not session.autobegin:
                raise NoTransaction(
                    "the session has no transaction and autobegin=False: record domain events inside `with session.begin():`"
                )
            root = session.begin()
        nested = session.get_nested_transaction()
        if not is_open(root) or (nested is not None and not is_open(nested)):
            raise NoTransaction("the session's transaction has failed or has ended: roll back, and record domain events in a new one")
        self._root = root
        return nested or root


def _restore(recorded: list[Recorded], stays: Callable[[Waiting], bool]) -> None:
    for each in recorded:
        home = each.home
        if home is None:
            continue
        if each.aggregate is not None:
            if vars(each.aggregate)["_sa_instance_state"].session_id is None:
                home.events.append(each.event)
        elif stays(home):
            home.events.append(each.event)
