"""Filters of a service: functions around publishing and around handlers, given as lists to `Service(publish_filters=..., handler_filters=...)`."""

from tidings.consume.filters import Call, HandlerFilter, Next
from tidings.errors import Vetoed
from tidings.publish.filters import Publication, PublishFilter

__all__ = ["Call", "HandlerFilter", "Next", "Publication", "PublishFilter", "Vetoed"]
