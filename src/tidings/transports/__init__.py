"""Transports: how events leave a service and reach another. `Local` is none: the log goes straight to this service's own subscribers."""

from tidings.transports.local import Local

__all__ = ["Local"]
