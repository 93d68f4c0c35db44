"""The dashboard is given who may, and what is hidden; it is an ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request

from tidings import Service
from tidings.dashboard import Auth, BasicAuth, Dashboard, Redact, TokenAuth, User


def by_header(request: Request) -> User | None:
    name = request.headers.get("x-user")
    return None if name is None else User(name, {"operator"})


async def by_session(request: Request) -> User | None:
    return User(str(request.session["user"]))


def by_name(request: Request) -> str:
    return request.headers["x-user"]


def without_request() -> User | None:
    return None


right: Auth = by_header
awaited: Auth = by_session
no_user: Auth = by_name  # E: a user, not a name
no_request: Auth = without_request  # E: it is called with the request

User("ada")
User("ada", frozenset({"viewer"}))
User("ada", ["viewer"])  # E: a set
User(7)  # E: a name is a text
may: bool = User("ada").may("operator")

TokenAuth("a-token-of-sixteen")
TokenAuth({"a-token-of-sixteen": User("ada")})
TokenAuth({"a-token-of-sixteen": "ada"})  # E: a user, not a name
TokenAuth(["a-token-of-sixteen"])  # E: one, or users by token
Redact("card.number", unless={"operator"}, event="order.*")
Redact("card.number", unless="operator")  # E: a set of roles
Redact(field=("card", "number"))  # E: a path is a text


def mount(service: Service, app: Starlette) -> None:
    dashboard: Dashboard = service.dashboard(auth=by_header, read_only=True, redact=["password", Redact("card")])
    service.dashboard(auth=TokenAuth("a-token-of-sixteen"))
    service.dashboard(auth=BasicAuth)  # E: made, not its class
    service.dashboard(auth="token")  # E: TokenAuth("token")
    service.dashboard(by_header)  # E: by name only
    service.dashboard(auth=by_name)  # E: a user, not a name
    service.dashboard(redact=[1])  # E: fields, or rules
    app.mount("/tidings", dashboard)
