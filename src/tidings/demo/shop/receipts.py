"""Receipts: a plain `def` handler, which runs in a thread with a synchronous session."""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session

from tidings import Envelope, Subscriptions
from tidings.demo.shop.contracts import OrderPlaced
from tidings.demo.shop.models import Receipt

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(OrderPlaced, name="receipts", concurrency=2)
def write_receipt(event: OrderPlaced, session: Session, envelope: Envelope) -> None:
    """Write the receipt. Events of the old till arrive here as the new version; the envelope still knows."""
    total = f"{event.total_minor / 100:.2f} {event.currency}"
    session.add(Receipt(order_id=event.order_id, text=f"{event.quantity} x {event.item}: {total}"))
    upcast = f" (published as version {envelope.version}, and upcast)" if envelope.version == 1 else ""
    logger.info("%s: receipt over %s%s", event.order_id, total, upcast)
