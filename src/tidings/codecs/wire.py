"""Recognising which wire format a received message is written in."""

from __future__ import annotations

from collections.abc import Collection
from datetime import tzinfo
from typing import Literal

from tidings.codecs import cap, cloudevents
from tidings.codecs.bindings import Binding
from tidings.codecs.message import LIMITS, CloudEvent, Limits, Message
from tidings.errors import Undecodable

__all__ = ["Format", "Wire", "decode"]

#: How messages are written: CloudEvents in binary mode, CloudEvents in structured mode, or DotNetCore.CAP.
Wire = Literal["cloudevents", "structured", "cap"]

#: What is told apart when they are read: both modes of CloudEvents are read wherever one of them is.
Format = Literal["cloudevents", "cap"]

_DEFAULT: tuple[Format, ...] = ("cloudevents",)


def decode(
    message: Message,
    binding: Binding,
    wires: Collection[Format] = _DEFAULT,
    limits: Limits = LIMITS,
    *,
    zone: tzinfo | None = None,
) -> CloudEvent:
    """Return the event that a message carries, in any of these formats, in whichever mode.

    Args:
        zone: of CAP's times, which have none.

    Raises:
        Undecodable: it carries none, and `reason` and the message say why. Nothing else gets out, however hostile the message.
    """
    event = cloudevents.decode(message, binding, limits) if "cloudevents" in wires else None
    if event is None and "cap" in wires:
        event = cap.decode(message, binding, limits, zone=zone)
    if event is None:
        raise Undecodable("unknown format", f"nothing in its headers says that the message is an event of {' or '.join(sorted(wires))}")
    return event
