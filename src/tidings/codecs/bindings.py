"""Bindings: where each broker's messages carry what a wire format calls a header. Values; nothing here talks to a broker."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

from tidings.envelope import RESERVED_HEADERS
from tidings.errors import Undecodable, Unsendable

__all__ = ["AMQP", "HTTP", "KAFKA", "NATS", "REDIS", "SNS", "Binding"]

# The HTTP binding, section 3.1.3.2: everything but printable ASCII, and space, quotation mark and percent.
_ENCODED = re.compile(r"""[^!#$&-~]""")
_QUOTED_PAIR = re.compile(r"\\(.)")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_PRINTABLE = re.compile(r"[!-~]+\Z")
_ATTRIBUTE = re.compile(r"[a-z0-9]+\Z")


@dataclass(frozen=True, eq=False)
class Binding:
    """How one kind of message carries attributes in its headers.

    Attributes:
        name: what messages call it.
        prefix: before an attribute's name, as it is written.
        prefixes: the same as it may be read, in lower case.
        percent: whether values are percent-encoded, because a header's value is ASCII without line breaks.
        token: whether names are restricted to the characters of an HTTP header's name.
        most: how many headers a message can have.
        own: names, in lower case, that the transport itself writes; a name that ends with `-` stands for all that begin with it.
        foreign: whether headers without prefix are the publisher's own; on HTTP they are anybody's.
        bare: whether a message that says nothing in its headers may be an event in structured mode.
        routed: attributes that brokers may route by, which structured mode therefore writes as headers, too.
        known: what `attribute` returned for names that it has seen.
    """

    name: str
    prefix: str
    prefixes: tuple[str, ...]
    percent: bool = False
    token: bool = False
    most: int | None = None
    own: frozenset[str] = frozenset()
    foreign: bool = True
    bare: bool = False
    routed: tuple[str, ...] = ()
    _attributes: dict[str, str] = field(default_factory=dict, repr=False)
    known: dict[str, str] = field(default_factory=dict, repr=False)

    def header(self, attribute: str) -> str:
        """Return the name of the header that carries an attribute.

        Raises:
            Unsendable: it is no name of an attribute: lower-case letters and digits.
        """
        known = self._attributes.get(attribute)
        if known is None:
            if not _ATTRIBUTE.match(attribute):
                raise Unsendable(f"{attribute!r} is no name of a CloudEvents attribute: lower-case letters and digits")
            known = self.prefix + attribute
            if len(self._attributes) < 256:
                self._attributes[attribute] = known
        return known

    def attribute(self, header: str) -> str | None:
        """Return the name of the attribute that a header carries, or None."""
        known = self.known.get(header)
        if known is None:
            lowered = header.lower()
            if not lowered.startswith(self.prefixes):
                return None
            known = next(lowered[len(prefix) :] for prefix in self.prefixes if lowered.startswith(prefix))
            if not _ATTRIBUTE.match(known):
                return None
            # Bounded: names come from outside.
            if len(self.known) < 256 and len(header) <= 64:
                self.known[header] = known
        return known

    def encoded(self, value: str) -> str:
        """Return a value as a header carries it."""
        if not self.percent or _ENCODED.search(value) is None:
            return value
        return _ENCODED.sub(_percent, value)

    def decoded(self, value: str, what: str) -> str:
        """Return the value that a header carries.

        Raises:
            Undecodable: `attributes`, when what was percent-encoded is not UTF-8.
        """
        if not self.percent:
            return value
        if len(value) > 1 and value[0] == value[-1] == '"':
            # Some write what stands between quotation marks in HTTP (RFC 9110, section 5.6.4); a quotation mark of ours is encoded.
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        if "%" not in value:
            return value
        try:
            return unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise Undecodable("attributes", f"{what} is not valid UTF-8 behind its percent-encoding") from None

    def why_not(self, name: str) -> str | None:
        """Say why a publisher's header cannot have this name; None when it can."""
        return _why_not(self, name)

    def check_own(self, name: str) -> None:
        """Refuse a publisher's header that could not be told from an attribute, or not be sent at all.

        Raises:
            Unsendable: it could not.
        """
        if reason := _why_not(self, name):
            raise Unsendable(f"header {name!r} {reason} on {self.name}: choose another name")


@lru_cache(2048)
def _why_not(binding: Binding, name: str) -> str | None:
    lowered = name.lower()
    if lowered.startswith((*binding.prefixes, "cap-")):
        return "would be taken for an attribute"
    if lowered in RESERVED_HEADERS or lowered in binding.own or any(lowered.startswith(own) for own in binding.own if own.endswith("-")):
        return "means something else"
    if not (_TOKEN if binding.token else _PRINTABLE).match(name):
        return "cannot be the name of a header"
    return None


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


HTTP = Binding("HTTP", "ce-", ("ce-",), percent=True, token=True, own=frozenset({"content-type", "content-length", "host"}), foreign=False)
KAFKA = Binding("Kafka", "ce_", ("ce_",), own=frozenset({"content-type"}))
#: AMQP 1.0 and, where there is no official binding, 0.9.1. The official Python SDK writes `ce-` on RabbitMQ, so that is read, too.
AMQP = Binding(
    "AMQP",
    "cloudEvents_",
    ("cloudevents_", "cloudevents:", "ce-"),
    own=frozenset({"x-death", "x-delivery-count", "tidings-slot"}),
    routed=("partitionkey",),
)
#: Version 1.0.2 of the binding knows no headers; that of NATS's own headers came later.
NATS = Binding("NATS", "ce-", ("ce-",), percent=True, token=True, own=frozenset({"content-type", "nats-"}), bare=True)
REDIS = Binding("Redis", "ce-", ("ce-",), own=frozenset({"content-type", "data", "headers", "body"}))
SNS = Binding("SNS/SQS", "ce-", ("ce-",), percent=True, token=True, most=10, own=frozenset({"content-type"}))
