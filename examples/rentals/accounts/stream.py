"""The event store of the accounts: one generic handler appends whatever happens to any of them, in the transaction in which it happens."""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from rentals.accounts.account import Account, AccountEvent, AccountOpened, Moved
from rentals.kernel import Base
from tidings import Subscriptions

__all__ = ["StoredEvent", "handlers", "load"]

handlers = Subscriptions()
_KINDS: dict[str, type[AccountEvent]] = {kind.__name__: kind for kind in (AccountOpened, Moved)}


class StoredEvent(Base):
    """One event of one account. Two writers of the same version cannot both commit."""

    __tablename__ = "account_events"
    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    data: Mapped[str]


@handlers.on(AccountEvent)
async def append(event: AccountEvent, session: AsyncSession) -> None:
    """Append an event of any class to the stream of its account."""
    last = await session.scalar(select(func.max(StoredEvent.version)).where(StoredEvent.account_id == event.account_id))
    data = msgspec.json.encode(event).decode()
    session.add(StoredEvent(account_id=event.account_id, version=(last or 0) + 1, kind=type(event).__name__, data=data))
    await session.flush()


async def load(session: AsyncSession, account_id: UUID) -> Account | None:
    """Rebuild an account from its stream; None when it has none."""
    rows = await session.scalars(select(StoredEvent).where(StoredEvent.account_id == account_id).order_by(StoredEvent.version))
    stream = [msgspec.json.decode(row.data, type=_KINDS[row.kind]) for row in rows]
    return Account.of(account_id, stream) if stream else None
