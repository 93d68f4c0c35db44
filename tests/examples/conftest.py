"""The sample's two applications side by side, each behind a client that speaks HTTP to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rentals import app as application
from rentals.notifications import app as notifications
from rentals.settings import Settings
from tests.consume.waiting import SECONDS
from tests.services.databases import Database
from tests.transports.conftest import rabbitmq_url
from tidings import Service, Subscriptions

__all__ = ["Sample", "rabbitmq_url", "running"]


@dataclass
class Sample:
    """The two applications.

    Attributes:
        web: speaks to the application.
        notes: speaks to the notifications.
    """

    web: httpx.AsyncClient
    notes: httpx.AsyncClient
    service: Service
    notifications: Service

    async def post(self, path: str, status: int = 200, **given: Any) -> Any:
        """Post to the application, and return what it answers."""
        response = await self.web.post(path, **given)
        assert response.status_code == status, response.text
        return response.json()

    async def get(self, path: str, **given: Any) -> Any:
        """Get from the application what is there in time: others may have to handle an event first."""
        return await until_there(self.web, path, lambda found: True, **given)

    async def until_handled(self, name: str, *wanted: set[str]) -> None:
        """Wait until each of these sets is exactly who has handled an event of this name; archives are not counted."""

        def marked(events: Any) -> bool:
            found = [set(event["handled_by"]) - {"notifications/archive"} for event in events if event["name"] == name]
            return sorted(map(sorted, found)) == sorted(map(sorted, wanted))

        await until_there(self.web, "/events", marked)

    async def until_blocked(self, reason: str) -> None:
        """Wait until an event of the application is dead for this reason."""
        async with asyncio.timeout(SECONDS):
            while reason not in [blocked.reason for blocked in await self.service.operations.blocked(state="dead")]:
                await asyncio.sleep(0.01)

    async def mailed(self, *wanted: str) -> list[str]:
        """Wait until the mail server has these subjects, and return all of them."""
        found = await until_there(self.notes, "/mails", lambda mails: set(wanted) <= {subject for _, subject in mails})
        return [subject for _, subject in found]


async def until_there(client: httpx.AsyncClient, path: str, condition: Any, **given: Any) -> Any:
    """Get until the answer is 200 and fulfils a condition."""
    found: Any = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                response = await client.get(path, **given)
                found = response.text
                if response.status_code == 200 and condition(response.json()):
                    return response.json()
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{path} is still {found}") from None


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sample") as client,
    ):
        app.state.service.tuning.longest = 0.05
        yield client


@asynccontextmanager
async def running(settings: Settings, more: Sequence[Subscriptions] = ()) -> AsyncIterator[Sample]:
    """Run both. The notifications come first: over a broker, their queue has to be there before anything is sent."""
    async with AsyncExitStack() as stack:
        other, app = notifications.create_app(settings), application.create_app(settings, more)
        notes = await stack.enter_async_context(serving(other))
        web = await stack.enter_async_context(serving(app))
        yield Sample(web, notes, app.state.service, other.state.service)


@pytest.fixture
async def sample(database: Database) -> AsyncIterator[Sample]:
    """The sample without a broker, on a database that both services share."""
    async with running(Settings(database.url, mail_retry=0.05)) as made:
        yield made
