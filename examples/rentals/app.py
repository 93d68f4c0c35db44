"""The web application: `uvicorn --factory rentals.app:create_app`, or `python -m rentals`, which starts the notifications, too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import async_sessionmaker

from rentals import accounts, cashiers, equipment, history, orders
from rentals.filters import USER
from rentals.kernel import Base
from rentals.settings import Settings, create_engine
from rentals.wiring import create_service
from tidings import Subscriptions
from tidings.context import ENVIRONMENT, TENANT, TRACE
from tidings.context.asgi import ContextMiddleware
from tidings.errors import ValidationFailed

__all__ = ["create_app"]


def create_app(settings: Settings | None = None, more: Sequence[Subscriptions] = ()) -> FastAPI:
    """Make the application.

    Args:
        settings: from the environment unless given.
        more: further handlers, for tests.
    """
    settings = settings or Settings.from_environment()
    engine = create_engine(settings.database)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    service = create_service(settings, engine, sessions, more)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # In a deployment: `tidings db upgrade`, and your own migrations.
        await service.store.upgrade()
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with service:
            yield
        await engine.dispose()

    app = FastAPI(title="Rentals", lifespan=lifespan)
    app.state.service, app.state.sessions = service, sessions
    # What a gateway in front of us sets, or removes. Nothing else that a client sends is believed.
    app.add_middleware(ContextMiddleware, trust=[TENANT, ENVIRONMENT, TRACE, USER])
    for router in (accounts.router, equipment.router, cashiers.router, orders.router, history.router):
        app.include_router(router)

    @app.exception_handler(ValidationFailed)
    async def refuse(request: Request, failed: ValidationFailed) -> JSONResponse:
        return JSONResponse({"errors": [{"field": error.context, "message": error.message} for error in failed.errors]}, 422)

    return app
