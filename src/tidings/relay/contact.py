"""The first contact with the brokers, when a service starts: mistakes in its configuration are found now, brokers that are down are not waited for."""

from __future__ import annotations

import asyncio
import logging

from tidings.errors import ConfigurationError, TidingsError, TransportDown
from tidings.relay.routing import Routing
from tidings.transports.base import Provision, Transport

__all__ = ["first_contact"]

logger = logging.getLogger("tidings.relay")


async def first_contact(routing: Routing, mode: Provision, seconds: float) -> set[str]:
    """Provision what the relays need, all at once; return the names of the transports where that is done.

    Args:
        seconds: how long to wait; a relay provisions later what could not be provisioned now.

    Raises:
        ProvisionError: a broker lacks what should be there, or has it with other properties.
        ConfigurationError: a client library is missing, or an address cannot be one.
    """
    found = await asyncio.gather(*(_contact(transport, routing, mode, seconds) for transport in routing.brokers), return_exceptions=True)
    for error in found:
        if isinstance(error, BaseException):
            raise error
    return {transport.name for transport, done in zip(routing.brokers, found, strict=True) if done}


async def _contact(transport: Transport, routing: Routing, mode: Provision, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await transport.provision(routing.topics(transport), {}, mode)
            if mode == "off":
                # Nothing else has asked for the client, or looked at the address.
                await (await transport.publisher()).close()
    except TimeoutError:
        reason = f"no answer within {seconds:g} s"
    except TransportDown as error:
        reason = str(error)
    except TidingsError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        # What clients raise over an address that is none.
        raise ConfigurationError(f"transport {transport.name!r} cannot be used as it is configured: {error}") from error
    else:
        return True
    logger.warning("relay:%s: the broker cannot be used yet: %s; the service starts without it", transport.name, reason)
    return False
