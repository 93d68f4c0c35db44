"""What one SQLAlchemy session has to publish, and the three events of the session that decide what becomes of it.

An event belongs to the innermost `SessionTransaction`:

* `before_commit` inserts, when it is the root transaction that commits. It fires before the final flush, so it flushes first.
* `after_commit` of a savepoint marks it released. Rollbacks do not always fire an event, so nothing is concluded from those.
* `after_transaction_end` hands a released savepoint's events to its parent, and drops every other's.

The listeners stand on the class `Session`, from when the first service is made: to register three on every session, which lives for one
transaction, costs more than all that is done for an event from `publish` to the INSERT. A session on which nobody publishes pays a dictionary
lookup for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.exc import FlushError

from tidings.errors import NoTransaction, PublishError
from tidings.publish.buffer import Cancellation, Captured, Entry, Receipt, insertion, plain_events, surviving
from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import Publisher
from tidings.publish.sqlalchemy_state import (
    acquired_connection,
    is_clean,
    is_preparing,
    may_be_heard,
    may_be_preparing,
    on_commit,
    open_savepoints,
    rolled_back_savepoints,
)
from tidings.stores.sql.driver import is_autocommit, run, send_with_commit, sends_with_commit

__all__ = ["SessionBuffer", "Sink", "Stage", "Watcher", "commits_root", "flush_until_clean", "hears_nobody", "listen_to_sessions"]

#: Where a session keeps its buffer: an attribute, because `info` may be copied from one session to another.
_ATTRIBUTE = "_tidings_session_buffer"

#: Takes the events of a committed session instead of the outbox.
Sink = Callable[[list[Outgoing]], None]


class Pending:
    """What one root transaction has to publish.

    Attributes:
        root: the root transaction.
        bind: the bind whose connection the events are inserted on.
        vouched: publishers whose store was found to be in that bind's database.
        frames: entries by the transaction that they belong to.
    """

    __slots__ = ("bind", "captured", "frames", "hooked", "late", "receipts", "released", "root", "trouble", "vouched")

    def __init__(self, root: SessionTransaction, bind: Engine | Connection, captured: Captured | None) -> None:
        self.root = root
        self.bind = bind
        self.vouched: set[Publisher] = set()
        self.frames: dict[SessionTransaction, list[Entry]] = {}
        self.released: set[SessionTransaction] = set()
        self.receipts: list[Receipt] = []
        self.captured = captured
        #: Our `before_commit` of this commit has passed, or will not be called.
        self.late = False
        #: The connection, and its event, that will insert what there is.
        self.hooked: tuple[Connection, str] | None = None
        #: Why an attempt to insert failed.
        self.trouble: BaseException | None = None

    def add_plainly(self, publisher: Publisher, item: Outgoing | Cancellation) -> bool:
        """Keep an entry with the root transaction, as most are; return False if there is more to be found out about it first."""
        frame = self.frames.get(self.root)
        if frame is None or publisher not in self.vouched:
            return False
        bind = self.bind
        connection = acquired_connection(self.root, bind) if isinstance(bind, Engine) else bind
        if connection is not None and connection.get_nested_transaction() is not None:
            return False
        frame.append((publisher, item, ()))
        return True

    def insert(self, connection: Connection, *, commits: bool = False) -> None:
        """Insert what no rollback has taken.

        Args:
            commits: whether the connection's transaction is committed next, and nothing can come in between.
        """
        frames = list(self.frames.values())
        entries: Sequence[Entry] = frames[0] if len(frames) == 1 else [entry for frame in frames for entry in frame]
        if any(entry[2] for entry in entries):
            entries = surviving(entries, rolled_back_savepoints(connection))
        if not entries:
            self.frames.clear()
            return
        try:
            self._run(connection, entries, commits and sends_with_commit(connection))
        except BaseException as error:
            self.trouble = error
            raise
        self.frames.clear()

    def _run(self, connection: Connection, entries: Sequence[Entry], with_commit: bool) -> None:
        # What goes with a COMMIT has a transaction.
        if not with_commit and is_autocommit(connection):
            raise NoTransaction("the session's connection is in autocommit mode, where every statement commits by itself")
        events = plain_events(entries) if self.captured is None else None
        if events is not None:
            publisher = entries[0][0]
            script = publisher.statements.script(events) if with_commit else None
            if script is not None:
                send_with_commit(connection, script)
            else:
                for command in publisher.statements.publish(events):
                    run(connection, command)
            self.receipts.append(Receipt(((publisher, events),), ()))
            return
        steps = insertion(entries, self.captured)
        rows: Any = None
        try:
            while True:
                rows = run(connection, steps.send(rows))
        except StopIteration as done:
            self.receipts.append(done.value)

    def hook(self, connection: Connection, name: str) -> None:
        """Insert when the connection commits. If it does not, because it is the caller's, `after_commit` of the session still can."""
        self.hooked = connection, name
        event.listen(connection, name, self._on_connection)

    def unhook(self) -> None:
        """Leave the connection as it was: it may be the caller's, and last longer than the session."""
        if self.hooked is not None:
            event.remove(*self.hooked, self._on_connection)
            self.hooked = None

    def _on_connection(self, connection: Connection, xid: Any = None) -> None:
        self.insert(connection)


class Watcher(Protocol):
    """Wants to know how a session's transactions end, too."""

    def after_commit(self, session: Session, /) -> None: ...
    def after_transaction_end(self, transaction: SessionTransaction, /) -> None: ...


class Stage(Watcher, Protocol):
    """Has work of its own to do before a root transaction commits: it may flush, write and publish."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        ...

    def before_commit(self, session: Session, /) -> None: ...


class SessionBuffer:
    """A session's pending events. Holds nothing of a transaction that has ended, so that no cycle keeps the session alive.

    Attributes:
        pending: what the current transaction has to publish, if anything.
        watcher: told of the same events of the session, after this.
        stage: works before this inserts; what it publishes is inserted with the rest.
    """

    __slots__ = ("_sink", "_sink_outbox", "_staging", "pending", "stage", "watcher")

    def __init__(self) -> None:
        self.pending: Pending | None = None
        self.watcher: Watcher | None = None
        self.stage: Stage | None = None
        self._staging = False
        self._sink: Sink | None = None
        self._sink_outbox: str | None = None

    @classmethod
    def of(cls, session: Session) -> SessionBuffer:
        """Return the session's buffer."""
        state = vars(session)
        buffer: SessionBuffer | None = state.get(_ATTRIBUTE)
        if buffer is None:
            buffer = state[_ATTRIBUTE] = cls()
        return buffer

    def capture(self, sink: Sink, outbox: str | None) -> None:
        """Give events to a sink instead of inserting them."""
        self._sink = sink
        self._sink_outbox = outbox

    def begin(self, root: SessionTransaction, bind: Engine | Connection) -> Pending:
        """Start over for a new root transaction."""
        if self.pending is not None:
            self.pending.unhook()  # another listener has failed before ours could hear of its end
        pending = self.pending = Pending(root, bind, None if self._sink is None else Captured(self._sink_outbox))
        return pending

    def add(self, session: Session, pending: Pending, owner: SessionTransaction, entry: Entry) -> None:
        """Keep an entry with its transaction."""
        frame = pending.frames.get(owner)
        if frame is None:
            frame = pending.frames[owner] = []
        frame.append(entry)
        if not self._staging and may_be_preparing(pending.root):
            # Our `before_commit` may have passed, with nothing to do, when another listener publishes its first event.
            pending.late = True
            _insert_last(session, pending)

    def before_commit(self, session: Session) -> None:
        """Flush until clean, then insert, if it is the root transaction that commits.

        Raises:
            PublishError: an earlier attempt to insert failed, and the caller tries to commit without the events.
        """
        pending = self.pending
        if pending is None or pending.root is not session.get_transaction():
            return
        if pending.trouble is not None:
            raise PublishError("events of this transaction could not be inserted, so it cannot commit: roll it back") from pending.trouble
        if not commits_root(session, pending.root):
            return
        flush_until_clean(session)
        _insert_last(session, pending)
        pending.late = True

    def run_stage(self, session: Session) -> None:
        """Let the stage work, if it is the root transaction that commits."""
        stage = self.stage
        root = session.get_transaction()
        if stage is None or stage.idle or root is None or not commits_root(session, root):
            return
        self._staging = True
        try:
            stage.before_commit(session)
        finally:
            self._staging = False

    def after_commit(self, session: Session) -> None:
        """Remember a released savepoint; after the root, tell everyone."""
        pending = self.pending
        if pending is None or pending.root is not session.get_transaction():
            return
        nested = session.get_nested_transaction()
        if nested is not None:
            if nested in pending.frames:
                pending.released.add(nested)
            return
        # On a connection that the caller brought, the session's commit need not be the connection's.
        joined = pending.bind if isinstance(pending.bind, Connection) and pending.bind.in_transaction() else None
        if any(pending.frames.values()):
            if joined is None:
                raise PublishError("the session has committed, and events that were published in the middle of its commit are lost")
            pending.insert(joined)
        for receipt in pending.receipts:
            if joined is None:
                receipt.confirm()
            else:
                receipt.savepoints = open_savepoints(joined)
                on_commit(joined, receipt)
        if self._sink is not None and pending.captured is not None and pending.captured.events:
            self._sink(pending.captured.events)

    def after_transaction_end(self, transaction: SessionTransaction) -> None:
        """Hand a released savepoint's entries to its parent, drop every other's."""
        pending = self.pending
        if pending is None:
            return
        if transaction is pending.root:
            pending.unhook()
            self.pending = None
            return
        frame = pending.frames.pop(transaction, None)
        if frame is None or transaction not in pending.released:
            return
        pending.released.discard(transaction)
        parent = transaction.parent
        while parent is not None and not parent.nested and parent.parent is not None:
            parent = parent.parent  # a flush runs in a transaction of its own, which is no savepoint
        if parent is not None:
            pending.frames.setdefault(parent, []).extend(frame)


def commits_root(session: Session, root: SessionTransaction) -> bool:
    """Return whether `before_commit` is about the root transaction, not about a savepoint that is being released."""
    while (nested := session.get_nested_transaction()) is not None:
        if is_preparing(nested) or not is_preparing(root):
            return False
        # The root commits with savepoints open. SQLAlchemy would release them after this hook, and not call it again.
        nested.commit()
    return True


def flush_until_clean(session: Session) -> None:
    """Flush; a flush may make the session dirty again. SQLAlchemy's own commit gives up at the same number."""
    for _ in range(100):
        if is_clean(session):
            return
        session.flush()
    raise FlushError("Over 100 subsequent flushes have occurred: is an after_flush() hook creating new objects?")


def hears_nobody(session: Session) -> bool:
    """Return whether nobody but us listens to what a commit of this session would tell, or has a commit of its own."""
    if type(session).commit is not Session.commit:
        return False
    dispatch = session.dispatch
    return [*dispatch.before_commit, *dispatch.after_commit, *dispatch.after_transaction_end] == _OURS


def _insert_last(session: Session, pending: Pending) -> None:
    """Insert now if nothing of the session's can come after us, else from the connection's own hook, the last one before COMMIT."""
    if pending.hooked is not None or not any(pending.frames.values()):
        return
    connection = acquired_connection(pending.root, pending.bind) or session.connection(bind_arguments={"bind": pending.bind})
    if pending.late or _others_follow(session):
        pending.hook(connection, "prepare_twophase" if session.twophase else "commit")
    else:
        # A connection that the caller brought is the caller's to commit.
        commits = pending.bind is not connection and not session.twophase and not _hears(connection)
        pending.insert(connection, commits=commits)


def _hears(connection: Connection) -> bool:
    """Return whether somebody listens to the commit of this connection: they may run statements before it."""
    return may_be_heard(connection) and bool([*connection.dispatch.commit])


def _others_follow(session: Session) -> bool:
    last: Any = None
    for last in session.dispatch.before_commit:  # noqa: B007
        pass
    return last is not _before_commit


def _before_commit(session: Session) -> None:
    buffer = vars(session).get(_ATTRIBUTE)
    if buffer is not None:
        if buffer.stage is not None:
            buffer.run_stage(session)
        buffer.before_commit(session)


def _after_commit(session: Session) -> None:
    buffer = vars(session).get(_ATTRIBUTE)
    if buffer is not None:
        buffer.after_commit(session)
        if buffer.stage is not None:
            buffer.stage.after_commit(session)
        if buffer.watcher is not None:
            buffer.watcher.after_commit(session)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    buffer = vars(session).get(_ATTRIBUTE)
    if buffer is not None:
        buffer.after_transaction_end(transaction)
        if buffer.stage is not None:
            buffer.stage.after_transaction_end(transaction)
        if buffer.watcher is not None:
            buffer.watcher.after_transaction_end(transaction)


_LISTENERS: dict[str, Callable[..., None]] = {
    "before_commit": _before_commit,
    "after_commit": _after_commit,
    "after_transaction_end": _after_transaction_end,
}
_OURS = list(_LISTENERS.values())
_listening = Lock()


def listen_to_sessions() -> None:
    """Hear of the commits of every session from now on. Without it nothing that is published on a session is inserted.

    Not when the first event is published: a commit in another thread, or the one that publishes, may be walking through the listeners.
    """
    with _listening:
        for name, listener in _LISTENERS.items():
            # SQLAlchemy would call it twice.
            if not event.contains(Session, name, listener):
                event.listen(Session, name, listener)
