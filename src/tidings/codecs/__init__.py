"""Codecs: how an event becomes text and text an event.

`payload_codec` picks the codec of an event class: msgspec for dataclasses, Structs and attrs, pydantic's own for pydantic models.
"""

from __future__ import annotations

from tidings.codecs.payload import PayloadCodec, payload_codec
from tidings.codecs.shapes import Scope, Unresolved

__all__ = ["PayloadCodec", "Scope", "Unresolved", "payload_codec"]
