"""A synchronous application: a plain `Session`, no event loop, and processes that are forked when everything is set up.

Run with the database's URL.
"""

from __future__ import annotations

import multiprocessing
import sys
import threading

import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from tests.consume.shop import shop
from tests.workers.events import orders
from tidings import Service
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

engine = sa.create_engine(sys.argv[1])
if engine.dialect.name == "sqlite":
    configure(engine)
Session = sessionmaker(engine)
service = Service("shop", contracts=[shop], store=SQLStore(engine))


def handle_requests(child: int) -> None:
    """What one of the forked processes does."""
    for event in orders(100 * child + 1, 100 * child + 10, key=f"{child}-"):
        with Session.begin() as session:
            session.execute(sa.text("select 1"))
            service.publish(session, event)
    # A request that fails publishes nothing.
    session = Session()
    service.publish(session, orders(999, 999)[0])
    session.rollback()
    engine.dispose()


def main() -> None:
    # Nothing that a fork would break exists before the first use.
    assert engine.pool.checkedin() == 0
    assert threading.active_count() == 1
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=handle_requests, args=(number,)) for number in (1, 2)]
    for child in children:
        child.start()
    handle_requests(0)
    for child in children:
        child.join()
        assert child.exitcode == 0


if __name__ == "__main__":
    main()
