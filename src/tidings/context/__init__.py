"""What a request or an event is about besides its data: tenant, environment, trace, and values of the user's own.

It is bound by a middleware or by `bind`, goes with the events that are published meanwhile, and is there again in whoever handles them and on
what they publish. A key is a value that says which header it travels in; nothing is registered anywhere, and nothing flows that no key names.
"""

from tidings.context.binding import Context, bind, current, of
from tidings.context.keys import (
    BAGGAGE,
    CORRELATION,
    ENVIRONMENT,
    TENANT,
    TRACE,
    ContextKey,
    ContextValue,
)
from tidings.errors import InvalidContext

__all__ = [
    "BAGGAGE",
    "CORRELATION",
    "ENVIRONMENT",
    "TENANT",
    "TRACE",
    "Context",
    "ContextKey",
    "ContextValue",
    "InvalidContext",
    "bind",
    "current",
    "of",
]
