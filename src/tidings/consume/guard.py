"""Keeping a handler from ending the transaction that its effects share with its inbox row, and noticing when it did all the same.

A connection that was rolled back would begin a new transaction by itself, and the session's next commit would be a real one: effects without
inbox row, applied again later. So what SQLAlchemy would do to the transaction is refused here; what is done behind its back, by text or on
the driver's own connection, is found out before our COMMIT.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from tidings.errors import TransactionEnded
from tidings.publish.session_buffer import SessionBuffer

__all__ = ["ENDED", "Guard", "SessionGuard"]

ENDED = (
    "the handler committed, rolled back, or swallowed a database error outside begin_nested(); its effects were rolled back. "
    "Leave commit and rollback to Tidings, and catch database errors inside session.begin_nested()"
)


class Guard:
    """Guards the transaction that a connection is in now."""

    __slots__ = ("_connection", "_transaction")

    def __init__(self, connection: Connection) -> None:
        self._connection = cast("Any", connection)
        self._transaction = connection.get_transaction()
        # Instance attributes of this checkout: event listeners would cost more than a small handler's transaction can spare, and slow down
        # every statement on the connection.
        self._connection._begin_impl = self._refuse_begin
        self._connection._commit_impl = self._refuse_commit

    def lift(self) -> None:
        """Let us commit.

        Raises:
            TransactionEnded: it is not the same transaction any more.
        """
        connection, transaction = self._connection, self._transaction
        if transaction is None or connection.get_transaction() is not transaction or not transaction.is_active:
            raise TransactionEnded(ENDED)
        if connection.dialect.name == "sqlite" and not connection.connection.driver_connection.in_transaction:
            raise TransactionEnded(ENDED)
        del connection._begin_impl, connection._commit_impl

    def _refuse_begin(self, transaction: object) -> None:
        raise TransactionEnded(ENDED)

    def _refuse_commit(self) -> None:
        # SQLAlchemy takes the transaction for ended whether its commit succeeds or not, and would give the connection back as it is.
        self._connection._rollback_impl()
        raise TransactionEnded(ENDED)


class SessionGuard:
    """Notices that a handler's session ended its transaction without commit: by rollback, or by being closed."""

    __slots__ = ("_committed", "_ended")

    def __init__(self, session: Session) -> None:
        self._committed = False
        self._ended = False
        SessionBuffer.of(session).watcher = self

    def check(self) -> None:
        """Raise if it did.

        Raises:
            TransactionEnded: what was done in the session may be gone by half.
        """
        if self._ended:
            raise TransactionEnded(ENDED)

    def after_commit(self, session: Session) -> None:
        """Remember the commit of a root transaction, whose end follows."""
        if not session.in_nested_transaction():
            self._committed = True

    def after_transaction_end(self, transaction: SessionTransaction) -> None:
        """Remember a root transaction that ends without commit."""
        if transaction.parent is None:
            self._ended = self._ended or not self._committed
            self._committed = False
