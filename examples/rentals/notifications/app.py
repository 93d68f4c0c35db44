"""The notifications: `uvicorn --factory rentals.notifications.app:create_app`. Its few routes let people see what has arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from rentals.contracts import CONTRACTS
from rentals.notifications.handlers import Archived, Base, handlers
from rentals.notifications.mail import MailServer
from rentals.settings import Settings, create_engine
from tidings import Dead, Retry, Service
from tidings.stores import SQLStore

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application, from the environment unless told otherwise."""
    settings = settings or Settings.from_environment()
    engine = create_engine(settings.notifications_database or settings.database)
    service = Service(
        # Also its consumer group. Sharing a database with the application, it reads the same log under its own name.
        "notifications",
        contracts=CONTRACTS,
        subscriptions=[handlers],
        store=SQLStore(engine),
        transport=settings.transport(),
        environment="dev",
        retry=Retry(attempts=5, base=settings.mail_retry, factor=2, give_up_on=(LookupError,)),
    )
    mail = MailServer()
    service.provide(MailServer, mail)
    alerts: list[str] = []

    @service.on_dead
    async def alert(dead: Dead) -> None:
        """Tell a human: after the last attempt, once."""
        alerts.append(f"{dead.message_type}: {dead.exception} ({dead.retry_count})")

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
        """Return what the mail server has taken."""
        return mail.sent

    @app.put("/mail-server")
    async def switch(down: bool) -> None:
        """Switch the mail server off, or on."""
        mail.down = down

    @app.get("/failures")
    async def failures() -> dict[str, Any]:
        """Return what waits for another attempt, or for somebody's decision, and the alerts that went out."""
        waiting = await service.operations.blocked()
        return {
            "alerts": alerts,
            "waiting": [{"subscription": key.subscription, "state": key.state, "error": key.error} for key in waiting],
        }

    @app.post("/failures/redrive")
    async def redrive(subscription: str) -> int:
        """Let dead events be tried again; return how many keys that was."""
        return await service.operations.redrive(subscription=subscription)

    @app.get("/archive")
    async def archive(name: str | None = None) -> list[dict[str, Any]]:
        """Return what has ever come in."""
        async with AsyncSession(engine) as session:
            rows = await session.scalars(select(Archived).where(Archived.name == name) if name else select(Archived))
            return [{"name": row.name, "tenant": row.tenant, "correlation_id": row.correlation_id} for row in rows]

    return app
