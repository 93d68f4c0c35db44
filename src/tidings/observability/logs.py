"""The log lines that several places write, each once: stable messages, and fields for structured logging (`docs/observability.md`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.consume.execution import Failed
    from tidings.consume.received import Received

__all__ = ["about", "failed_processing", "received_from"]


def about(received: Received, **further: Any) -> dict[str, Any]:
    """Return the fields that say which event a line is about."""
    return {"event_id": received.id, "event_name": received.name, "key": received.key, **further}


def received_from(logger: logging.Logger, group: str, received: Received) -> None:
    """Say that a group has read an event. Callers ask `isEnabledFor` once for many."""
    logger.debug("received %s", received.name, extra=about(received, group=group))


def failed_processing(logger: logging.Logger, subscription: str, failed: Failed) -> None:
    """Say in one line that an attempt failed; the traceback is for who asks for the details, and for the event that is dead."""
    received, failure = failed.received, failed.failure
    line = "failed processing %s %s (attempt %d, %s): %s: %s"
    arguments = (
        received.name, received.id, failed.number, failed.decision.state, failure.error_type, failure.error_message.partition("\n")[0][:300],
    )  # fmt: skip
    extra = about(
        received, subscription=subscription, attempt=failed.number, state=failed.decision.state, error_type=failure.error_type
    )  # fmt: skip
    logger.warning(line, *arguments, extra=extra)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug(line, *arguments, extra=extra, exc_info=failed.error)
