"""Reading the log. Its tables are Tidings' own, described for SQLAlchemy; only read them."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tidings.ids import event_key
from tidings.stores import metadata

__all__ = ["published_after"]


async def published_after(session: AsyncSession, position: int, limit: int = 100) -> list[dict[str, Any]]:
    """Return public and internal events behind a position of the log, each with the subscriptions that have handled it.

    Whoever catches up this way takes copies in its stride, and asks again from somewhat before its last position: a transaction that was open
    for long commits below positions that were seen already. Subscriptions do better; this is for people and for clients without any.
    """
    dialect = session.get_bind().dialect.name
    tables = metadata(dialect="postgresql" if dialect == "postgresql" else "sqlite").tables
    log, inbox, subscriptions = (tables[f"tidings_{name}"].c for name in ("outbox", "inbox", "subscriptions"))
    query = select(log.position, log.id, log.source, log.name, log.version, log.key, log.data)
    rows = (await session.execute(query.where(log.position > position).order_by(log.position).limit(limit))).all()
    # The inbox has one key for an event of any source.
    keys = [event_key(row.source, str(row.id)) for row in rows]
    marks = (
        select(inbox.event_key, subscriptions.service, subscriptions.name)
        .join(subscriptions.id.table, subscriptions.id == inbox.subscription_id)
        .where(inbox.event_key.in_([UUID(key) for key in keys] if dialect == "postgresql" else keys))
    )
    handled: dict[str, list[str]] = {}
    for key, service, name in (await session.execute(marks)).all():
        handled.setdefault(UUID(str(key)).hex, []).append(f"{service}/{name}")
    return [
        {
            "position": row.position, "name": row.name, "version": row.version, "key": row.key,
            "data": json.loads(row.data) if isinstance(row.data, str) else row.data, "handled_by": sorted(handled.get(key, [])),
        }
        for key, row in zip(keys, rows, strict=True)
    ]  # fmt: skip
