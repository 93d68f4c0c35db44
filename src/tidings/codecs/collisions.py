"""Names of headers that a publisher cannot use, because a wire format or a broker writes them itself."""

from __future__ import annotations

from functools import lru_cache

from tidings.codecs.bindings import AMQP, HTTP, KAFKA, NATS, REDIS, SNS, Binding
from tidings.codecs.cap import SETTABLE

__all__ = ["collision"]

_EVERY = (HTTP, KAFKA, AMQP, NATS, REDIS, SNS)
# An event must not become unsendable by another transport in the configuration, so these hold without any broker, too.
_PREFIXES = tuple(dict.fromkeys(prefix for binding in _EVERY for prefix in binding.prefixes))


@lru_cache(2048)
def collision(name: str, bindings: tuple[Binding, ...], *, cap: bool) -> str | None:
    """Say why a header of this name cannot be sent, and what to do about it; None when it can.

    Args:
        bindings: of the transports in use.
        cap: whether one of them writes the format of DotNetCore.CAP, of whose headers publishers may set some.
    """
    lowered = name.lower()
    if lowered.startswith("cap-"):
        if lowered not in SETTABLE:
            return "begins with 'cap-', which is CAP's own: choose another name"
        if cap:
            return None
        return "means something to CAP only, and no transport of this service writes its format: give the transport wire='cap', or leave it out"
    for prefix in _PREFIXES:
        if lowered.startswith(prefix):
            return f"begins with {prefix!r}, which is how CloudEvents attributes are written: choose another name, for example {name[len(prefix) :] or 'x'!r}"
    if lowered == "content-type":
        return "is written by the wire format: choose another name"
    for binding in bindings:
        if reason := binding.why_not(name):
            return f"{reason} on {binding.name}: choose another name"
    return None
