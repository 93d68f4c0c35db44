"""`Publishing`: a block in which events are published on a connection of a driver.

Drivers have no hook before COMMIT, so the block is what stands for the transaction: its events are buffered, and inserted by one statement
when it is left. What happens then is one generator of steps for all drivers; only who waits for the steps differs.

A block stands for one savepoint at most: a driver does not tell that a savepoint was rolled back. Nest a block in the savepoint; its
events go to the outer block when it is left, and are dropped when it is left by an exception.
"""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import Any, TypeVar

from tidings.errors import NoTransaction, PublishError, WrongDatabase
from tidings.publish.buffer import Entry, Receipt, insertion, surviving
from tidings.publish.failures import explained
from tidings.publish.link import Maybe, link_to
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import Publish
from tidings.publish.publisher import Publisher

__all__ = ["Publishing"]

T = TypeVar("T")

#: What a step of a block yields may have to be awaited; its result is sent back.
Steps = Generator[Maybe[Any], Any, T]

# The innermost open block of each connection, by the id of the driver's connection object, which the block keeps alive.
_open: dict[int, Publishing] = {}


class Publishing:
    """A `with` block (`async with` for an asynchronous driver) that gives a `Publish`; made by `service.publishing(connection)`.

    If the connection is in no transaction, the block begins one, and commits or rolls it back; else its end is the caller's. An exception
    inside means that nothing is inserted.

    Raises:
        TypeError: nobody here knows how to publish on such an object.
    """

    def __init__(self, publisher: Publisher, connection: object) -> None:
        self._publisher = publisher
        self._link = link_to(connection)
        self._entries: list[Entry] = []
        self._state = "new"
        self._began = False
        self._outer: Publishing | None = None

    def __enter__(self) -> Publish:
        if self._link.asynchronous:
            raise TypeError(f"{self._driver()} is asynchronous: use `async with service.publishing(connection) as publish:`")
        return _run(self._enter())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _run(self._leave(error))

    async def __aenter__(self) -> Publish:
        if not self._link.asynchronous:
            raise TypeError(f"{self._driver()} is synchronous: use `with service.publishing(connection) as publish:`")
        return await _run_async(self._enter())

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await _run_async(self._leave(error))

    def _driver(self) -> str:
        kind = type(self._link.connection)
        return f"{kind.__module__.partition('.')[0]}'s {kind.__qualname__}"

    def _enter(self) -> Steps[Publish]:
        if self._state != "new":
            raise PublishError("this block has been entered before: call service.publishing(connection) for each block")
        link = self._link
        if link.bind is not None:
            ours = self._publisher.same_database(link.bind)
        else:
            identity = yield link.identity()
            ours = identity is None or self._publisher.same_identity(identity)
        if not ours:
            raise WrongDatabase(
                f"this {self._driver()} leads to another database than the store of service {self._publisher.source!r}: nobody would read "
                f"the event there; publish on a connection to the store's database"
            )
        self._outer = _open.get(id(link.connection))
        self._began = yield link.begin()
        self._state = "open"
        _open[id(link.connection)] = self
        return Publish(self._publisher, self._accept)

    def _accept(self, item: Outgoing) -> None:
        if self._state != "open":
            raise NoTransaction("the publishing block has been left, and its events with it: publish inside the block")
        self._entries.append((self._publisher, item, self._link.savepoints()))

    def _leave(self, error: BaseException | None) -> Steps[None]:
        self._state = "left"
        if self._outer is None:
            _open.pop(id(self._link.connection), None)
        else:
            _open[id(self._link.connection)] = self._outer
        if error is not None:
            yield from self._roll_back(error)
            return
        try:
            receipt = yield from self._insert()
            if self._began:
                yield self._link.commit()
        except BaseException as failure:
            yield from self._roll_back(failure)
            raise
        if receipt is not None:
            if self._began:
                receipt.confirm()
            else:
                self._link.await_commit(receipt)

    def _insert(self) -> Steps[Receipt | None]:
        link = self._link
        entries = surviving(self._entries, link.rolled_back())
        if not link.in_transaction():
            if entries:
                raise NoTransaction(
                    f"the transaction of the publishing block was ended inside the block, and its {len(entries)} events are not published: "
                    f"leave the block first, or let the block commit"
                )
            if self._began:
                yield link.rollback()  # nothing to undo, but the driver's own transaction object must be closed
                self._began = False
            return None
        if self._outer is not None and not self._began:
            self._outer._entries += entries
            return None
        if not entries:
            return None
        steps = insertion(entries)
        rows: Any = None
        try:
            while True:
                rows = yield link.run(steps.send(rows))
        except StopIteration as done:
            receipt: Receipt = done.value
            return receipt
        except Exception as error:
            reason = explained(error)
            if reason is None:
                raise
            raise reason from error

    def _roll_back(self, error: BaseException) -> Steps[None]:
        if not self._began:
            return
        try:
            yield self._link.rollback()
        except Exception as failure:  # noqa: BLE001 - the first error is what the caller needs; where ROLLBACK fails, the connection is lost
            error.add_note(f"rolling back failed, too: {failure!r}")


def _run(steps: Steps[T]) -> T:
    value: Any = None
    try:
        while True:
            value = steps.send(value)
    except StopIteration as done:
        result: T = done.value
        return result


async def _run_async(steps: Steps[T]) -> T:
    try:
        step: Any = steps.send(None)
        while True:
            try:
                value = await step
            except BaseException as error:  # noqa: BLE001 - the steps decide what becomes of it
                step = steps.throw(error)
            else:
                step = steps.send(value)
    except StopIteration as done:
        result: T = done.value
        return result
