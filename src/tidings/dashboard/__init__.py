"""The dashboard and its JSON API: one ASGI application over the store's queries. `service.dashboard(...)` makes it, `tidings dashboard` runs it.

It needs the extra `dashboard`; nothing of it is loaded before it is asked for.
"""

from __future__ import annotations

from tidings.errors import MissingExtra

try:
    from tidings.dashboard.app import Dashboard
    from tidings.dashboard.auth import Auth, BasicAuth, TokenAuth, User
    from tidings.dashboard.payload import Redact
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] in ("starlette", "jinja2", "markupsafe"):
        raise MissingExtra("the dashboard", "dashboard") from error
    raise

__all__ = ["Auth", "BasicAuth", "Dashboard", "Redact", "TokenAuth", "User"]
