"""The notifications: `uvicorn --factory rentals.notifications.app:create_app`. Its few routes let people see what has arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from rentals.contracts import CONTRACTS
from rentals.notifications.handlers import Base, handlers
from rentals.notifications.mail import MailServer
from rentals.settings import Settings, create_engine
from tidings import Service
from tidings.stores import SQLStore

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application, from the environment unless told otherwise."""
    settings = settings or Settings.from_environment()
    engine = create_engine(settings.notifications_database or settings.database)
    service = Service(
        "notifications",
        contracts=CONTRACTS,
        subscriptions=[handlers],
        store=SQLStore(engine),
        transport=settings.transport(),
        environment=settings.environment,
    )
    mail = MailServer()
    service.provide(MailServer, mail)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.store.upgrade()
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with service:
            yield
        await engine.dispose()

    app = FastAPI(title="Notifications", lifespan=lifespan)
    app.state.service = service

    @app.get("/mails")
    async def mails() -> list[tuple[str, str]]:
        return mail.sent

    return app
