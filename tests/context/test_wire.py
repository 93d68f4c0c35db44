"""Context and hops survive every wire format and binding."""

from __future__ import annotations

import pytest

from tidings.codecs import cap, cloudevents
from tidings.codecs.bindings import AMQP, KAFKA, NATS, REDIS, Binding
from tidings.codecs.message import CloudEvent, Message

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
EXTENSIONS = {
    "correlationid": "flow", "hops": "5", "chain": "order.placed order.billed", "tenantid": "acme & söhne", "traceparent": TRACEPARENT,
    "tracestate": "a=1,b=2",
}  # fmt: skip
OWN = {"x-env": "canary", "x-region": "eu/west 1", "baggage": "k=v%20w;p,l=m"}
EVENT = CloudEvent("7", "/shop", "order.placed.v1", b"{}", extensions=EXTENSIONS, headers=OWN)


@pytest.mark.parametrize("binding", [AMQP, KAFKA, NATS, REDIS], ids=lambda binding: binding.name)
@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_context_survives_cloudevents(binding: Binding, mode: str) -> None:
    encode = cloudevents.encode_binary if mode == "binary" else cloudevents.encode_structured
    found = cloudevents.decode(encode(EVENT, binding), binding)
    assert found is not None
    assert (dict(found.extensions), dict(found.headers)) == (EXTENSIONS, OWN)


@pytest.mark.parametrize("binding", [AMQP, KAFKA, REDIS], ids=lambda binding: binding.name)
def test_context_survives_cap(binding: Binding) -> None:
    message = cap.encode(EVENT, "order.placed", binding)
    # What services with NetCorePal look for.
    assert (message.headers["x-tenant"], message.headers["x-env"]) == ("acme & söhne", "canary")
    found = cap.decode(message, binding)
    assert found is not None
    assert (dict(found.extensions), dict(found.headers)) == (EXTENSIONS, OWN)


def test_a_tenant_of_a_service_that_is_not_ours_is_one() -> None:
    headers = {"cap-msg-id": "1", "cap-msg-name": "order.placed", "x-tenant": "acme", "x-env": "canary"}
    found = cap.decode(Message(headers, b"{}"), AMQP)
    assert found is not None
    assert found.extensions["tenantid"] == "acme"
    assert found.headers == {"x-env": "canary"}
    ours = cap.decode(Message({**headers, "tenantid": "ours"}, b"{}"), AMQP)
    assert ours is not None
    assert ours.extensions["tenantid"] == "ours"
