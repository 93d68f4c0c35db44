"""The little that all modules share: the tables' base class, the clock, and how routes get at the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, HTTPException, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase

from tidings import Service
from tidings.domain import Err, Result

__all__ = ["Base", "Clock", "ServiceOf", "SessionOf", "Sessions", "SystemClock", "answer", "found"]

T = TypeVar("T")
Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    """Every table of the application; a module touches its own only."""


class Clock(Protocol):
    """Tells the time; tests provide one that stands still."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...


class SystemClock:
    """The clock on the wall."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    sessions: Sessions = request.app.state.sessions
    async with sessions() as session:
        yield session


#: Parameters of routes. Modules name what they need and import no application.
ServiceOf = Annotated[Service, Depends(_service)]
SessionOf = Annotated[AsyncSession, Depends(_session)]


def answer(result: Result[T, Any]) -> T:
    """Return the value of an `Ok`, or answer with 409 and what the `Err` says."""
    if isinstance(result, Err):
        raise HTTPException(409, str(result.error))
    return result.value


def found(value: T | None) -> T:
    """Return what is there, or answer with 404."""
    if value is None:
        raise HTTPException(404)
    return value
