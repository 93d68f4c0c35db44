"""Events for wire tests: some by hand, any by hypothesis."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import strategies as st

from tidings.codecs.message import CloudEvent
from tidings.envelope import RESERVED_HEADERS

PLACED = CloudEvent(
    "0197c1b2-7c00-7abc-8def-0123456789ab",
    "/shop",
    "com.example.order.placed.v2",
    b'{"order_id":42,"note":"gr\xc3\xbc\xc3\x9fe"}',
    datetime(2026, 7, 1, 17, 44, 38, 123456, tzinfo=UTC),
    "42",
    "42",
    "application/json",
    "https://example.com/schemas/order.placed.v2.json",
    {"correlationid": "flow-1", "sequence": "17", "tenantid": "Zürich 100%"},
    {"x-colour": "dark blue", "x-empty": ""},
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
words = texts.filter(bool)
extensions = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
        lambda name: name not in RESERVED_HEADERS and name not in ("data", "dataschema")
    ),
    texts,
    max_size=4,
)
own_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,30}", fullmatch=True).filter(
    lambda name: (
        name.lower() not in RESERVED_HEADERS | {"content-type", "host", "content-length", "body", "headers", "x-death", "x-delivery-count"}
        and not name.lower().startswith(("ce-", "ce_", "cloudevents", "cap-", "nats-"))
    )
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
times = st.datetimes(timezones=st.just(UTC))
events = st.builds(
    CloudEvent,
    id=words,
    source=words,
    type=words,
    data=json_values.map(lambda value: json.dumps(value).encode()),
    time=st.none() | times,
    subject=st.none() | texts,
    key=st.none() | texts,
    dataschema=st.none() | words,
    extensions=extensions,
    headers=st.dictionaries(own_names, texts, max_size=4),
)
