"""What operators see of a running service: health, metrics, traces and alerts. Nothing here is imported before it is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.observability.alerts import BacklogAlert, BreakerAlert
    from tidings.observability.health import Health

__all__ = ["BacklogAlert", "BreakerAlert", "Health"]

_HOMES = {
    "BacklogAlert": "tidings.observability.alerts",
    "BreakerAlert": "tidings.observability.alerts",
    "Health": "tidings.observability.health",
}


def __getattr__(name: str) -> Any:
    # The rest of the library writes its log lines with a module of this package: importing it must not import what imports that.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tidings.observability' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
