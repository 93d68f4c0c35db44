"""Mail: handlers that ask for no database run with no transaction open.

A mail cannot be rolled back, so it can be sent twice after a crash; the envelope's id tells the copies.
"""

from __future__ import annotations

import logging

from tidings import Envelope, Subscriptions
from tidings.demo.shop.contracts import OfferMade, OrderShipped

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(OrderShipped, name="mail", concurrency=2)
async def send_mail(event: OrderShipped, envelope: Envelope) -> None:
    """Tell the customer, with the event's id as the message's id."""
    logger.info("%s: mail 'on its way to %s', message id ...%s", event.order_id, event.city, str(envelope.id)[-6:])


@handlers.subscribe(OfferMade, name="newsletter", concurrency=2)
async def advertise(event: OfferMade) -> None:
    """Tell everybody."""
    logger.info("newsletter: %s, %d %% off", event.item, event.percent)
