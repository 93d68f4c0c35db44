"""Publishing on SQLAlchemy sessions, synchronous or not: encoded now, buffered, inserted by one statement just before COMMIT.

Nothing is sent and nothing is awaited at the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from tidings.errors import NoTransaction, WrongDatabase
from tidings.publish.buffer import Cancellation
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import UNSET
from tidings.publish.publisher import Publisher
from tidings.publish.session_buffer import SessionBuffer, Sink
from tidings.publish.sqlalchemy_state import acquired_connection, is_open, is_plain, open_savepoints
from tidings.stores.sql.driver import is_autocommit_level

__all__ = ["AnySession", "Sink", "cancel", "capture", "publish", "publish_in", "synchronous"]

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]


def publish(
    publisher: Publisher,
    session: AnySession,
    event: object,
    /,
    key: object = UNSET,
    delay: timedelta | None = None,
    at: datetime | None = None,
    expires: timedelta | datetime | None = None,
    headers: Mapping[str, str] | None = None,
) -> UUID:
    """Encode an event, buffer it until the session commits, and return its id. The other arguments are those of `Publisher.prepare`.

    Raises:
        InvalidEvent: as from `Publisher.prepare`.
        NoTransaction: there is no transaction that it could be part of, or that transaction has ended or failed.
        WrongDatabase: the session belongs to another database than the store.
        TypeError: not a session.
    """
    target = synchronous(session)
    outgoing = publisher.prepare(event, key, delay, at, expires, headers)
    publish_in(publisher, target, outgoing)
    return outgoing.id


def cancel(publisher: Publisher, session: AnySession, event_id: UUID, /) -> Cancellation:
    """Cancel a scheduled event when the session commits; the result tells after the commit whether it was still waiting.

    Raises:
        NoTransaction, WrongDatabase, TypeError: as from `publish`.
    """
    target = synchronous(session)
    cancellation = Cancellation(event_id)
    publish_in(publisher, target, cancellation)
    return cancellation


def capture(session: Session | AsyncSession, sink: Sink, *, outbox: str | None = None) -> None:
    """Give the session's events to a sink whenever the session commits, instead of inserting them.

    Args:
        session: a session that nobody has published on yet.
        sink: called after each commit of the root transaction with its events in publish order, if there are any.
        outbox: only events for this table go to the sink, those of other stores are inserted as usual; None is all.
    """
    target = synchronous(session)
    SessionBuffer.of(target).capture(sink, outbox)


def synchronous(session: object) -> Session:
    """Return the `Session` that a session of any kind is, or works with.

    Raises:
        TypeError: not a session.
    """
    if isinstance(session, AsyncSession):
        return session.sync_session
    if isinstance(session, Session):
        return session
    if isinstance(session, (scoped_session, async_scoped_session)):
        return synchronous(session())
    hint = "to publish on a connection: `with service.publishing(connection) as publish:`, `async with` for an asynchronous driver"
    raise TypeError(f"publish wants a SQLAlchemy session, not a {type(session).__module__}.{type(session).__qualname__}; {hint}")


def publish_in(publisher: Publisher, session: Session, item: Outgoing | Cancellation) -> None:
    """Buffer what is encoded already until the session commits.

    Raises:
        NoTransaction, WrongDatabase: as from `publish`.
    """
    buffer = SessionBuffer.of(session)
    if (pending := buffer.pending) is not None and is_plain(session, pending.root) and pending.add_plainly(publisher, item):
        return
    root = session.get_transaction() or _begin(session)
    nested = session.get_nested_transaction()
    if not is_open(root) or (nested is not None and not is_open(nested)):
        raise NoTransaction("the session's transaction has failed, is prepared or has ended: roll back, and publish in a new one")
    if pending is None or pending.root is not root:
        pending = buffer.begin(root, _bind_of(session, root))
    bind = pending.bind
    if publisher not in pending.vouched:
        _vouch(publisher, bind)
        pending.vouched.add(publisher)
    connection = acquired_connection(root, bind) if isinstance(bind, Engine) else bind
    savepoints = () if connection is None or connection.get_nested_transaction() is None else open_savepoints(connection)
    buffer.add(session, pending, nested or root, (publisher, item, savepoints))


def _vouch(publisher: Publisher, bind: Engine | Connection) -> None:
    if not publisher.same_database(bind):
        raise WrongDatabase(
            f"the session is bound to {_name(bind)}, and the store of service {publisher.source!r} is in another database: nobody would "
            f"read the event there; publish on a session of the store's database"
        )


def _begin(session: Session) -> SessionTransaction:
    if not session.autobegin:
        raise NoTransaction("the session has no transaction and autobegin=False: publish inside `with session.begin():`")
    try:
        return session.begin()
    except InvalidRequestError as error:
        raise NoTransaction(f"the session cannot begin a transaction: {error}") from error


def _bind_of(session: Session, root: SessionTransaction) -> Engine | Connection:
    try:
        bind = session.get_bind()
    except UnboundExecutionError as error:
        raise WrongDatabase("the session has no bind of its own, at most binds per mapper: give it the store's engine as `bind`") from error
    if is_autocommit_level(_connection_of(root, bind) or bind):
        raise NoTransaction(f"{_name(bind)} is in AUTOCOMMIT mode, where every statement commits by itself: events need a transaction")
    return bind


def _connection_of(root: SessionTransaction, bind: Engine | Connection) -> Connection | None:
    return bind if isinstance(bind, Connection) else acquired_connection(root, bind)


def _name(bind: Engine | Connection) -> str:
    engine = bind if isinstance(bind, Engine) else bind.engine
    return engine.url.render_as_string(hide_password=True)
