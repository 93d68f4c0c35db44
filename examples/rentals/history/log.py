"""Reading the log, with a marker of who has handled what. The inbox is one of Tidings' own tables, described for SQLAlchemy; only read it."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Service
from tidings.ids import event_key
from tidings.log import LoggedEvent
from tidings.stores import metadata

__all__ = ["published_after"]


async def published_after(service: Service, session: AsyncSession, cursor: str | None, limit: int = 100) -> list[dict[str, Any]]:
    """Return public and internal events, from the cursor of one of them on, each with the subscriptions that have handled it."""
    found: list[LoggedEvent] = []
    async for logged in service.read_log(cursor):
        found.append(logged)
        if len(found) == limit:
            break
    # The inbox has one key for an event of any source.
    keys = [event_key(logged.envelope.source, str(logged.envelope.id)) for logged in found]
    handled = await _handled(session, keys)
    return [
        {
            "cursor": logged.cursor, "name": logged.envelope.name, "version": logged.envelope.version, "key": logged.envelope.key,
            "data": json.loads(logged.data), "handled_by": sorted(handled.get(key, [])),
        }
        for key, logged in zip(keys, found, strict=True)
    ]  # fmt: skip


async def _handled(session: AsyncSession, keys: list[str]) -> dict[str, list[str]]:
    dialect = session.get_bind().dialect.name
    tables = metadata(dialect="postgresql" if dialect == "postgresql" else "sqlite").tables
    inbox, subscriptions = (tables[f"tidings_{name}"].c for name in ("inbox", "subscriptions"))
    marks = (
        select(inbox.event_key, subscriptions.service, subscriptions.name)
        .join(subscriptions.id.table, subscriptions.id == inbox.subscription_id)
        .where(inbox.event_key.in_([UUID(key) for key in keys] if dialect == "postgresql" else keys))
    )
    handled: dict[str, list[str]] = {}
    for key, service, name in (await session.execute(marks)).all():
        handled.setdefault(UUID(str(key)).hex, []).append(f"{service}/{name}")
    return handled
