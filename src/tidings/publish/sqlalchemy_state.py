"""What SQLAlchemy knows and has no public name for. Every private name that publishing reads stands here, each with its test.

SQLAlchemy 2.0.36 to 2.1 have them all.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState

from tidings.publish.buffer import Receipt

__all__ = [
    "acquired_connection",
    "connections_of",
    "is_clean",
    "is_open",
    "is_plain",
    "is_preparing",
    "is_whole",
    "may_be_heard",
    "may_be_preparing",
    "on_commit",
    "open_savepoints",
    "rolled_back_savepoints",
]


# Looking up a member of an enumeration takes a function call.
_ACTIVE = SessionTransactionState.ACTIVE
_PROVISIONING = SessionTransactionState.PROVISIONING_CONNECTION


def is_clean(session: Session) -> bool:
    """Return whether a flush would do nothing; cheaper than looking at `new`, `dirty` and `deleted`, which build sets."""
    return session._is_clean()


def is_open(transaction: SessionTransaction) -> bool:
    """Return whether more can be written in this transaction: it neither failed nor is prepared, committed or closed.

    `is_active` says no while a connection is being acquired, which is when `after_begin` listeners run.
    """
    state = transaction._state
    return state is _ACTIVE or state is _PROVISIONING


def is_plain(session: Session, root: SessionTransaction) -> bool:
    """Return whether a root transaction is the session's current one, is open, has no savepoint, and does nothing at the moment."""
    return session._transaction is root and root._state is _ACTIVE and root._current_fn is None


def is_preparing(transaction: SessionTransaction) -> bool:
    """Return whether `commit` or `prepare` of this very transaction runs at the moment, before anything is committed.

    A session's events do not say so: `before_commit` fires for savepoints too, and for a root transaction while its savepoints are open.
    """
    function = transaction._current_fn
    return function is not None and function.__name__ == "_prepare_impl"


def may_be_preparing(transaction: SessionTransaction) -> bool:
    """Return False if `commit` of this transaction surely is not running: acquiring a connection in its last flush hides it."""
    return transaction._state is _PROVISIONING or is_preparing(transaction)


def is_whole(session: Session, root: SessionTransaction) -> bool:
    """Return whether a root transaction is still the session's, has not failed, and the transactions of its connections have not been ended."""
    if session.get_transaction() is not root or root._state is not _ACTIVE:
        return False
    return all(held[1].is_active for held in root._connections.values())


def acquired_connection(transaction: SessionTransaction, bind: Engine | Connection) -> Connection | None:
    """Return the connection that a root transaction has joined or acquired for a bind, or None if it has not yet; never connects."""
    held = transaction._connections.get(bind)
    return held[0] if held is not None else None


def connections_of(transaction: SessionTransaction) -> list[Connection]:
    """Return the connections that a root transaction has joined or acquired."""
    # Each stands there under its engine and under itself.
    return [held[0] for bind, held in transaction._connections.items() if bind is held[0]]


def may_be_heard(connection: Connection) -> bool:
    """Return False if surely nobody listens to what happens on a connection; cheaper than its dispatcher, which the first question makes."""
    return bool(connection._has_events or connection.engine._has_events)


class _Watch:
    """What happens to one connection's transaction from when somebody first asked."""

    __slots__ = ("receipts", "rolled_back")

    def __init__(self) -> None:
        self.rolled_back: set[str] = set()
        self.receipts: list[Receipt] = []


_watches: WeakKeyDictionary[Connection, _Watch] = WeakKeyDictionary()


def open_savepoints(connection: Connection) -> tuple[str, ...]:
    """Return the names of the connection's open savepoints; from now on the connection is watched for their end.

    A session does not see the savepoints that are begun on its connection. SQLAlchemy never uses a name twice on one connection.
    """
    names: list[str] = []
    nested: Any = connection.get_nested_transaction()
    while nested is not None:
        # One that ended before its inner ones stays behind them in SQLAlchemy's list.
        if nested.is_active:
            names.append(nested._savepoint)
        nested = nested._previous_nested
    if names:
        _watch(connection)
    return tuple(names)


def rolled_back_savepoints(connection: Connection) -> set[str]:
    """Return the names of the savepoints that were rolled back since the connection is watched."""
    watch = _watches.get(connection)
    return set() if watch is None else watch.rolled_back


def on_commit(connection: Connection, receipt: Receipt) -> None:
    """Confirm a receipt when the connection commits. SQLAlchemy has no event after COMMIT: it is confirmed just before."""
    _watch(connection).receipts.append(receipt)


def _watch(connection: Connection) -> _Watch:
    watch = _watches.get(connection)
    if watch is None:
        watch = _watches[connection] = _Watch()
        event.listen(connection, "rollback_savepoint", _rollback_savepoint)
        event.listen(connection, "commit", _commit)
        event.listen(connection, "commit_twophase", _commit_twophase)
        event.listen(connection, "rollback", _rollback)
    return watch


def _rollback_savepoint(connection: Connection, name: str, context: None) -> None:
    watch = _watches[connection]
    watch.rolled_back.add(name)
    watch.receipts = [receipt for receipt in watch.receipts if name not in receipt.savepoints]


def _commit(connection: Connection) -> None:
    watch = _watches[connection]
    receipts, watch.receipts = watch.receipts, []
    for receipt in receipts:
        receipt.confirm()


def _commit_twophase(connection: Connection, xid: Any, is_prepared: bool) -> None:
    _commit(connection)


def _rollback(connection: Connection) -> None:
    _watches[connection].receipts.clear()
