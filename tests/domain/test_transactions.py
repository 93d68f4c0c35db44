"""A domain event shares the fate of its transaction and of its savepoint; where the state stays, the event goes back to its object."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from tests.domain.shop import Note, Noted, Order, OrderSubmitted, Shop
from tidings import Service, Subscriptions
from tidings.domain import AggregateRoot, DomainEvents
from tidings.errors import NoTransaction, PublishError


class Cart:
    """Not mapped; its recorder is an attribute of the object."""

    __slots__ = ("_events", "items")

    def __init__(self) -> None:
        self._events = DomainEvents()
        self.items: list[str] = []

    def put(self, item: str) -> None:
        self.items.append(item)
        self._events.record(Noted(item))


class Basket:
    """Not mapped; its recorder is an attribute of the class."""

    events = DomainEvents()

    def put(self, item: str) -> None:
        self.events.record(Noted(item))


class Saga(AggregateRoot):
    """Not mapped, with the base class."""

    def step(self, text: str) -> None:
        self.record(Noted(text))


class Own:
    """Knows nothing of us but one method."""

    def __init__(self) -> None:
        self.list: list[Any] = []

    def pull_events(self) -> list[Any]:
        taken, self.list = self.list, []
        return taken


def noting() -> Subscriptions:
    """Handlers that note every event that they are given."""
    handlers = Subscriptions()

    @handlers.on(Noted)
    def note(event: Noted, session: Session) -> None:
        session.add(Note(text=event.text))

    @handlers.on(OrderSubmitted)
    def submitted(event: OrderSubmitted, session: Session) -> None:
        session.add(Note(text=event.order.name))

    return handlers


@pytest.fixture
async def service(lite: Shop) -> Service:
    return lite.service(noting())


async def test_a_rolled_back_savepoint_takes_its_events_with_it(lite: Shop, service: Service) -> None:
    with lite.sessions() as session, session.begin():
        service.record(session, Noted("before"))
        with session.begin_nested():
            service.record(session, Noted("kept"))
            with session.begin_nested() as inner:
                service.record(session, Noted("lost"))
                inner.rollback()
        with session.begin_nested() as outer:
            with session.begin_nested():
                service.record(session, Noted("released into a rollback"))
            outer.rollback()
        service.record(session, Noted("after"))
    assert lite.notes() == ["before", "kept", "after"]


async def test_a_savepoint_of_the_connection_takes_its_events_with_it(lite: Shop, service: Service) -> None:
    with lite.sessions() as session, session.begin():
        connection = session.connection()
        savepoint = connection.begin_nested()
        service.record(session, Noted("lost"))
        savepoint.rollback()
        savepoint = connection.begin_nested()
        service.record(session, Noted("kept"))
        savepoint.commit()
    assert lite.notes() == ["kept"]


async def test_the_root_commits_with_savepoints_open(lite: Shop, service: Service) -> None:
    with lite.sessions() as session:
        session.begin_nested()
        service.record(session, Noted("a"))
        session.begin_nested()
        service.record(session, Noted("b"))
        session.get_transaction().commit()
    assert lite.notes() == ["a", "b"]


async def test_a_handler_that_rolls_back_its_savepoint_goes_on_without_what_it_recorded_there(lite: Shop) -> None:
    handlers = noting()
    service: Any = None

    @handlers.on(OrderSubmitted)
    def careful(event: OrderSubmitted, session: Session) -> None:
        with pytest.raises(RuntimeError), session.begin_nested():
            service.record(session, Noted("lost"))
            session.add(Note(text="lost too"))
            raise RuntimeError
        with session.begin_nested():
            service.record(session, Noted("kept"))

    service = lite.service(handlers)
    with lite.sessions() as session, session.begin():
        session.add(Order(name="a").submit())
    assert lite.notes() == ["a", "kept"]


async def test_a_new_object_that_a_rollback_makes_transient_keeps_its_events(lite: Shop, service: Service) -> None:
    order = Order(name="a").submit()
    with lite.sessions() as session:
        session.add(order)
        order.submit()
        session.rollback()
    with lite.sessions() as session, session.begin():
        session.add(order)
    assert lite.notes() == ["a", "a"]
    assert order.pull_events() == []


async def test_a_commit_that_fails_gives_the_events_back(lite: Shop) -> None:
    handlers = noting()
    failing = True

    @handlers.on(OrderSubmitted)
    def fail(event: OrderSubmitted) -> None:
        if failing:
            raise RuntimeError

    lite.service(handlers)
    order = Order(name="a").submit()
    with lite.sessions() as session:
        session.add(order)
        with pytest.raises(RuntimeError):
            session.commit()
        session.rollback()
        failing = False
        session.add(order)
        session.commit()
    assert lite.notes() == ["a"]


async def test_a_rollback_undoes_a_stored_object_and_what_it_has_recorded(lite: Shop, service: Service) -> None:
    with lite.sessions() as session:
        order = Order(name="a")
        session.add(order)
        session.commit()
        order.total = 5
        order.submit()
        session.rollback()
        assert order.total == 0
        session.commit()
        assert order.pull_events() == []
    assert lite.notes() == []


async def test_an_object_that_nobody_holds_on_to_loses_no_event(lite: Shop, service: Service) -> None:
    with lite.sessions() as session, session.begin():
        session.add(Order(name="a"))
    with lite.sessions() as session, session.begin():
        session.get_one(Order, "a").submit()  # not dirty: the session's own reference is weak
        session.execute(sa.text("select 1"))
    assert lite.notes() == ["a"]


@pytest.mark.parametrize("cart", [Cart, Basket])
async def test_composition_is_tracked_until_the_transaction_ends(lite: Shop, service: Service, cart: Any) -> None:
    mine = cart()
    mine.put("before")
    with lite.sessions() as session, session.begin():
        service.track(session, mine)
        mine.put("inside")
    assert lite.notes() == ["before", "inside"]
    mine.put("after")
    with lite.sessions() as session, session.begin():
        service.track(session, mine)
        service.track(session, mine)
    assert lite.notes() == ["before", "inside", "after"]


async def test_an_object_that_is_not_mapped_gets_its_events_back(lite: Shop, service: Service) -> None:
    saga = Saga()
    saga.step("a")
    with lite.sessions() as session:
        service.track(session, saga)
        saga.step("b")
        session.rollback()
    assert [event.text for event in saga.pull_events()] == ["a", "b"]


async def test_tracked_in_a_savepoint_or_before_it(lite: Shop, service: Service) -> None:
    early, late = Saga(), Saga()
    with lite.sessions() as session, session.begin():
        service.track(session, early)
        with session.begin_nested() as savepoint:
            service.track(session, late)
            early.step("undone")
            late.step("back")
            savepoint.rollback()
        early.step("kept")
    assert lite.notes() == ["kept"]
    assert early.pull_events() == []
    assert [event.text for event in late.pull_events()] == ["back"]


async def test_any_object_with_pull_events_can_be_tracked(lite: Shop, service: Service) -> None:
    own = Own()
    with lite.sessions() as session, session.begin():
        service.track(session, own)
        own.list.append(Noted("a"))
    assert lite.notes() == ["a"]
    with lite.sessions() as session, session.begin(), pytest.raises(TypeError, match="derive it from AggregateRoot"):
        service.track(session, object())


async def test_a_failed_transaction_records_nothing(lite: Shop, service: Service) -> None:
    with lite.sessions() as session:
        session.add_all([Order(name="a")])
        session.flush()
        session.execute(sa.text("insert into orders (name, total) values ('x', 1)"))
        session.add(Order(name="x"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        with pytest.raises(NoTransaction):
            service.record(session, Noted("a"))


async def test_what_is_recorded_after_the_handlers_have_run_is_no_silent_loss(lite: Shop, service: Service) -> None:
    with lite.sessions() as session:

        @sa.event.listens_for(session, "before_commit")
        def late(session: Session) -> None:
            service.record(session, Noted("late"))

        session.add(Note(text="a"))
        with pytest.raises(PublishError, match="recorded in the middle of its commit"):
            session.commit()


async def test_declarative_dataclasses_and_class_attributes_take_no_notice(lite: Shop, service: Service) -> None:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Ticket(AggregateRoot, Base):
        __tablename__ = "tickets"
        events = DomainEvents()
        number: Mapped[int] = mapped_column(primary_key=True)

    assert Ticket.__table__.columns.keys() == ["number"]
    ticket = Ticket(number=1)
    ticket.events.record(Noted("by the attribute"))
    ticket.record(Noted("by the base"))
    assert ticket == Ticket(number=1)
    with sa.orm.Session(lite.engine) as session:
        Base.metadata.create_all(session.connection())
        session.commit()
    with lite.sessions() as session, session.begin():
        session.add(ticket)
        ticket.events.record(Noted("inside"))
    assert lite.notes() == ["by the attribute", "by the base", "inside"]


async def test_a_recorder_that_a_mapped_object_made_itself_is_found(lite: Shop, service: Service) -> None:
    order = Order(name="a")
    order.mine = DomainEvents()  # type: ignore[attr-defined]
    order.mine.record(Noted("found"))  # type: ignore[attr-defined]
    with lite.sessions() as session, session.begin():
        session.add(order)
        order.mine.record(Noted("too"))  # type: ignore[attr-defined]
    assert lite.notes() == ["found", "too"]
