"""The first contact with the brokers, when a service starts: mistakes in its configuration are found now, brokers that are down are not waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tidings.errors import ConfigurationError, TidingsError, TransportDown
from tidings.transports.base import Provision, Transport

__all__ = ["Needs", "first_contact"]

logger = logging.getLogger("tidings.relay")


class Needs(NamedTuple):
    """What has to be there at one broker.

    Attributes:
        user: who says so, for logs: `relay:rabbitmq`.
    """

    transport: Transport
    topics: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    user: str


async def first_contact(needs: Sequence[Needs], mode: Provision, seconds: float) -> set[str]:
    """Provision what is needed, all at once; return the names of the transports where that is done.

    Args:
        seconds: how long to wait; what could not be provisioned now is later, by whoever uses it.

    Raises:
        ProvisionError: a broker lacks what should be there, or has it with other properties.
        ConfigurationError: a client library is missing, or an address cannot be one.
    """
    found = await asyncio.gather(*(_contact(need, mode, seconds) for need in needs), return_exceptions=True)
    for error in found:
        if isinstance(error, BaseException):
            raise error
    return {need.transport.name for need, done in zip(needs, found, strict=True) if done}


async def _contact(need: Needs, mode: Provision, seconds: float) -> bool:
    transport = need.transport
    try:
        async with asyncio.timeout(seconds):
            await transport.provision(need.topics, need.groups, mode)
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
    logger.warning("%s: the broker cannot be used yet: %s; the service starts without it", need.user, reason)
    return False
