"""The routes for those who missed something."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi import APIRouter, HTTPException

from rentals.history.log import published_after
from rentals.kernel import ServiceOf, SessionOf
from tidings.errors import InvalidCursor

__all__ = ["router"]

router = APIRouter(tags=["history"])


@router.get("/events")
async def events(service: ServiceOf, session: SessionOf, after: str | None = None) -> list[dict[str, Any]]:
    """Return what was published, at most a hundred events; go on with the cursor of the last one."""
    try:
        return await published_after(service, session, after)
    except InvalidCursor as error:
        raise HTTPException(422, str(error)) from None


@router.post("/events/replay")
async def replay(subscription: str, service: ServiceOf, key: str | None = None) -> dict[str, int]:
    """Handle the log again for one subscription: to build a query model anew. On purpose past the inbox."""
    done = await service.replay(subscription, name=f"by-hand-{uuid4().hex[:8]}", key=key)
    return {"handled": done.handled, "failed": done.failed}


@router.get("/audit")
async def audit(service: ServiceOf, outcome: str | None = None) -> list[dict[str, Any]]:
    """Return who has executed which command, and what came of it."""
    rows = await service.audited(outcome=outcome)
    return [{"command": row.command, "actor": row.actor, "outcome": row.outcome, "error": row.error_message} for row in rows]
