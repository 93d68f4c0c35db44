"""What the log says of a database that cannot be used: it once, its reasons, how long, and that it is over."""

from __future__ import annotations

import logging

import pytest

from tidings.stores.sql import outages
from tidings.stores.sql.outages import Outages

GONE = ConnectionError("the database cannot be used: connection is closed")
REFUSED = ConnectionError("the database cannot be used: connection refused")


class Log:
    """Outages on a clock that stands still, and the lines about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        monkeypatch.setattr(outages, "elapsed", lambda: self.now)
        caplog.set_level(logging.DEBUG, logger="tidings.store")
        self._caplog = caplog
        self.outages = Outages()

    def lines(self, least: int = logging.INFO) -> list[str]:
        """Return what was logged since the last time."""
        found = [record.getMessage() for record in self._caplog.records if record.name == "tidings.store" and record.levelno >= least]
        self._caplog.clear()
        return found


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Log:
    return Log(monkeypatch, caplog)


def test_an_outage_is_one_line_however_many_parts_notice_it(log: Log) -> None:
    for part in ("shop/shop@log", "heartbeat", "task:mover"):
        for _ in range(5):
            log.outages.met(part, GONE)
    assert log.lines(logging.DEBUG) == [
        "shop/shop@log: the database cannot be used: connection is closed; trying again until it can be used",
        *["shop/shop@log: the database cannot be used: connection is closed; trying again"] * 4,
        *["heartbeat: the database cannot be used: connection is closed; trying again"] * 5,
        *["task:mover: the database cannot be used: connection is closed; trying again"] * 5,
    ]
    log.now += 16
    log.outages.met("heartbeat", GONE)
    log.outages.over("task:mover")
    assert log.lines() == [], "another one cannot use it yet, or has not tried lately"
    log.outages.over("heartbeat")
    assert log.lines() == ["the database can be used again after 16 s"]
    log.outages.over("shop/shop@log")
    assert log.lines() == []
    log.outages.met("task:mover", GONE)
    assert len(log.lines()) == 1, "the next outage is another one"


def test_each_reason_is_told_once_and_not_without_end(log: Log) -> None:
    for _ in range(3):
        log.outages.met("heartbeat", GONE)
        log.outages.met("heartbeat", REFUSED)
    assert [line.rpartition(": ")[2] for line in log.lines()] == [
        "connection is closed; trying again until it can be used",
        "connection refused; trying again until it can be used",
    ]
    for number in range(100):
        log.outages.met("heartbeat", ConnectionError(f"reason {number}"))
    assert len(log.lines()) == 3


def test_a_minute_later_it_is_told_again_with_how_long_it_lasts(log: Log) -> None:
    log.outages.met("heartbeat", GONE)
    log.lines()
    for _ in range(30):
        log.now += 10
        log.outages.met("heartbeat", GONE)
    assert log.lines() == [
        f"heartbeat: the database cannot be used: connection is closed; trying again for {lasting} already"
        for lasting in ("60 s", "2 min", "3 min", "4 min", "5 min")
    ]


def test_the_one_part_that_cannot_use_it_is_no_new_outage_whenever_others_can(log: Log) -> None:
    for _ in range(5):
        log.now += 5
        log.outages.met("shop/shop@log", GONE)
        log.outages.over("heartbeat")
    assert len(log.lines()) == 1


def test_what_ended_while_it_failed_does_not_keep_an_outage_alive(log: Log) -> None:
    log.outages.met("shop/shop@log", GONE)
    log.now += 16
    log.outages.over("heartbeat")
    assert log.lines()[-1] == "the database can be used again after 16 s"
