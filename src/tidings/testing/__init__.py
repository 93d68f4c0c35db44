"""A test kit for users' own suites: a harness that runs a service step by step, recorders for unit tests, and fixtures for pytest.

Nothing here imports pytest or SQLAlchemy before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.testing.blocking import SyncHarness
    from tidings.testing.crashes import CrashPoint
    from tidings.testing.domain import InMemoryUnitOfWork, RecordingExecute
    from tidings.testing.envelopes import envelope
    from tidings.testing.harness import Harness
    from tidings.testing.recorders import Recording, RecordingPublish, recording
    from tidings.testing.seen import Handled, ParkedEvent, Published, ScheduledEvent
    from tidings.testing.settling import NotSettled

__all__ = [
    "CrashPoint",
    "Handled",
    "Harness",
    "InMemoryUnitOfWork",
    "NotSettled",
    "ParkedEvent",
    "Published",
    "Recording",
    "RecordingExecute",
    "RecordingPublish",
    "ScheduledEvent",
    "SyncHarness",
    "envelope",
    "recording",
]

_HOMES = {
    "CrashPoint": "crashes",
    "Handled": "seen",
    "Harness": "harness",
    "InMemoryUnitOfWork": "domain",
    "NotSettled": "settling",
    "ParkedEvent": "seen",
    "Published": "seen",
    "Recording": "recorders",
    "RecordingExecute": "domain",
    "RecordingPublish": "recorders",
    "ScheduledEvent": "seen",
    "SyncHarness": "blocking",
    "envelope": "envelopes",
    "recording": "recorders",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        from tidings.errors import MissingExtra

        raise MissingExtra(f"tidings.testing.{name}", "testing") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
